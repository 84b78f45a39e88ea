// How long ranks wait for each other.
#pragma once

#include <chrono>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/index.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that sets the communicator's deadline: within a step recipe.rank_timeout, or ten typical steps and 30 s at
// least; between steps, where rank 0 may work alone, recipe.rank_timeout or comm::default_deadline.
class RankDeadline {
 public:
  // The report, which knows how long a step takes, must outlive the callback.
  explicit RankDeadline(const Report& report) : report_(report) {}

  template <class Run>
  void begin(Run& run) {
    set(run, 0);
  }
  template <class Run, class StepSettings>
  void prepare(Run& run, StepSettings&) {
    set(run, report_.seconds_per_step());
  }
  template <class Run>
  void after(Run& run, const StepReport&) {
    set(run, 0);
  }

 private:
  // typical: seconds of a step; 0 where that is no measure, in the first step and between steps.
  template <class Run>
  static void set(Run& run, double typical) {
    constexpr double shortest = 30, steps = 10;
    const double wanted = run.recipe().rank_timeout;
    std::chrono::milliseconds deadline = comm::default_deadline;
    if (wanted > 0 || typical > 0)
      deadline =
          std::chrono::milliseconds(static_cast<long>(1e3 * (wanted > 0 ? wanted : larger(shortest, steps * typical))));
    run.trainer().communicator().set_deadline(deadline);
  }

  const Report& report_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
