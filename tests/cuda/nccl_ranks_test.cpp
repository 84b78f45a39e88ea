// Ranks that train on devices by NCCL do what ranks with another communicator do.
#include "cuda/ranks.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/staged.hpp"

namespace tessera::test {
namespace {

using comm::Replicated, comm::ZeroStage1;

class DeviceNcclRanks : public DeviceTest<float> {};

TEST_F(DeviceNcclRanks, TrainAsStagedOnes) {
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
  EXPECT_LE(tensor_error<OnlineLayout<Learned>>(replicated[0].student, staged[0].student), 1e-4);
  for (auto split : train_by_nccl.template operator()<ZeroStage1>()) {
    split.gradient = replicated[0].gradient;
    EXPECT_TRUE(split == replicated[0]) << "with split states";
  }
}

}  // namespace
}  // namespace tessera::test
