// Ranks that train on devices do what ranks on the processor do.
#include <functional>

#include "cuda/collectives.hpp"
#include "support/ranks.hpp"
#include "tessera/comm/staged.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"
#if __has_include(<nccl.h>)
#include "tessera/comm/nccl.hpp"
#endif

namespace tessera::test {
namespace {

using comm::Replicated, comm::ZeroStage1;

class DeviceRanks : public DeviceTest<float> {};

// The third step repeats what was recorded in the first.
const Plan plan{.batch = 12, .steps = 3, .learning_rate = 0.03};

std::vector<int> numbers() {
  return numbers_of_ranks().size() == 1 ? std::vector<int>{1} : std::vector<int>{2, 3};
}

// Trains on `ranks` threads, of which each makes its communicator of its place.
template <template <class, class> class Sharing, class Optimizer, class Make>
std::vector<Outcome<float>> on_device(int ranks, Make&& make) {
  std::vector<Outcome<float>> outcomes(static_cast<std::size_t>(ranks));
  comm::run_threads(ranks, [&](comm::Threads& place) {
    cuda::open_device(0);
    auto communicator = make(place);
    RankBackend backend;
    outcomes[static_cast<std::size_t>(place.rank())] = train<Optimizer, Sharing>(backend, communicator, plan);
  });
  return outcomes;
}

template <class Make>
void check(Make&& make) {
  for (const int ranks : numbers()) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const auto outcomes = on_device<Replicated, optim::Sgd>(ranks, make);
    Outcome<float> host;
    comm::run_threads(ranks, [&](comm::Threads& communicator) {
      cpu::Backend<float> backend(1);
      auto outcome = train<optim::Sgd>(backend, communicator, plan);
      if (communicator.rank() == 0) host = std::move(outcome);
    });
    EXPECT_LE(tensor_error<Layout<Learned>>(outcomes[0].student, host.student), 1e-4);
    EXPECT_LE(tensor_error<Layout<Learned::Teacher>>(outcomes[0].teacher, host.teacher), 1e-4);
    for (std::size_t t = 0; t < host.losses.size(); ++t) EXPECT_NEAR(outcomes[0].losses[t], host.losses[t], 1e-4);
    for (const auto& outcome : outcomes) EXPECT_TRUE(outcome == outcomes[0]) << "ranks differ";
    for (auto split : on_device<ZeroStage1, optim::Sgd>(ranks, make)) {
      split.gradient = outcomes[0].gradient;
      EXPECT_TRUE(split == outcomes[0]) << "with split states";
    }
  }
}

TEST_F(DeviceRanks, TrainAsTheProcessorsWhenStaged) {
  check([](comm::Threads& place) {
    place.set_deadline(std::chrono::seconds(60));
    return comm::Staged<comm::Threads>(place);
  });
}

#if __has_include(<nccl.h>)
TEST_F(DeviceRanks, TrainAsTheProcessorsByNccl) {
  const int ranks = numbers().back();
  const auto train_by_nccl = [&]<template <class, class> class Sharing>() {
    const ncclUniqueId id = comm::Nccl::new_id();
    return on_device<Sharing, optim::Sgd>(ranks, [&](comm::Threads& place) {
      return comm::Nccl(place.rank(), place.size(), id, std::chrono::seconds(60));
    });
  };
  const auto replicated = train_by_nccl.template operator()<Replicated>();
  const auto staged =
      on_device<Replicated, optim::Sgd>(ranks, [](comm::Threads& place) { return comm::Staged<comm::Threads>(place); });
  EXPECT_LE(tensor_error<Layout<Learned>>(replicated[0].student, staged[0].student), 1e-4);
  for (auto split : train_by_nccl.template operator()<ZeroStage1>()) {
    split.gradient = replicated[0].gradient;
    EXPECT_TRUE(split == replicated[0]) << "with split states";
  }
}
#endif

}  // namespace
}  // namespace tessera::test
