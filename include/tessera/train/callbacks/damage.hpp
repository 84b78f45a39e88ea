// Damaged pictures of a run, as they are met. Needs nlohmann-json (tessera::io).
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "tessera/data/tolerant.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that lists damaged pictures in damaged.txt of the run's folder, tells their number when it has grown, and
// writes it into the metrics: "damaged_pictures". Every rank lists those that it has met, rank 0's file has no number.
class DamageMonitor {
 public:
  // damaged may be null: then there are none. The report must outlive the callback.
  DamageMonitor(Report& report, std::shared_ptr<data::DamagedPictures> damaged)
      : report_(report), damaged_(std::move(damaged)) {}

  template <class Run>
  void begin(Run& run) {
    if (!damaged_) return;
    const int rank = run.trainer().communicator().rank();
    path_ = run.recipe().out / (rank == 0 ? "damaged.txt" : fmt::format("damaged.{}.txt", rank));
    damaged_->write_to(path_);
    tell(run);
  }
  template <class Run>
  void after(Run& run, const StepReport&) {
    if (damaged_) tell(run);
  }

 private:
  template <class Run>
  void tell(Run& run) {
    const int count = damaged_->count();
    if (count == told_) return;
    told_ = count;
    report_.row({{"step", static_cast<double>(run.steps())},
                 {"epoch", run.epoch()},
                 {"damaged_pictures", static_cast<double>(count)}});
    report_.say(fmt::format("{} picture{} could not be read or decoded and {} replaced by others: {}", count,
                            count == 1 ? "" : "s", count == 1 ? "is" : "are", path_.string()));
  }

  Report& report_;
  std::shared_ptr<data::DamagedPictures> damaged_;
  std::filesystem::path path_;
  int told_ = 0;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
