// Trainers on several ranks of a device.
#pragma once

#include <vector>

#include "cuda/collectives.hpp"
#include "support/ranks.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {

// The third step repeats what was recorded in the first.
inline const Plan short_plan{.batch = 12, .steps = 3, .learning_rate = 0.03};

inline std::vector<int> numbers() {
  return numbers_of_ranks().size() == 1 ? std::vector<int>{1} : std::vector<int>{2, 3};
}

// Trains on `ranks` threads, of which each makes its communicator of its place.
template <template <class, class> class Sharing, class Optimizer, class Make>
std::vector<Outcome<float>> on_device(int ranks, Make&& make, const Plan& plan = short_plan) {
  std::vector<Outcome<float>> outcomes(static_cast<std::size_t>(ranks));
  comm::run_threads(ranks, [&](comm::Threads& place) {
    cuda::open_device(0);
    auto communicator = make(place);
    RankBackend backend;
    outcomes[static_cast<std::size_t>(place.rank())] = train<Optimizer, Sharing>(backend, communicator, plan);
  });
  return outcomes;
}

}  // namespace tessera::test
