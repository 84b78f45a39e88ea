// Ranks that train on devices do what ranks on the processor do.
#include "cuda/ranks.hpp"
#include "tessera/comm/staged.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/train/product_choices.hpp"

namespace tessera::test {
namespace {

using comm::Replicated, comm::ZeroStage1;

class DeviceRanks : public DeviceTest<float> {};

TEST_F(DeviceRanks, TrainAsTheProcessorsWhenStaged) {
  const auto staged = [](comm::Threads& place) {
    place.set_deadline(std::chrono::seconds(60));
    return comm::Staged<comm::Threads>(place);
  };
  for (const int ranks : numbers()) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const auto outcomes = on_device<Replicated, optim::Sgd>(ranks, staged);
    Outcome<float> host;
    comm::run_threads(ranks, [&](comm::Threads& communicator) {
      cpu::Backend<float> backend(1);
      auto outcome = train<optim::Sgd>(backend, communicator, short_plan);
      if (communicator.rank() == 0) host = std::move(outcome);
    });
    EXPECT_LE(tensor_error<OnlineLayout<Learned>>(outcomes[0].student, host.student), 1e-4);
    EXPECT_LE(tensor_error<AverageLayout<Learned>>(outcomes[0].teacher, host.teacher), 1e-4);
    for (std::size_t t = 0; t < host.losses.size(); ++t) EXPECT_NEAR(outcomes[0].losses[t], host.losses[t], 1e-4);
    for (const auto& outcome : outcomes) EXPECT_TRUE(outcome == outcomes[0]) << "ranks differ";
    for (auto split : on_device<ZeroStage1, optim::Sgd>(ranks, staged)) {
      split.gradient = outcomes[0].gradient;
      EXPECT_TRUE(split == outcomes[0]) << "with split states";
    }
  }
}

#if defined(TESSERA_EMULATION)
// Each rank has a device, and with it a table, of its own.
TEST_F(DeviceRanks, ChooseAlike) {
  constexpr int ranks = 3;
  emulation::machine.devices = ranks;
  for (unsigned seed = 1; seed < 6; ++seed) {
    emulation::machine.times = seed;
    std::vector<cuda::ProductChoices> choices(ranks);
    comm::run_threads(ranks, [&](comm::Threads& place) {
      place.set_deadline(std::chrono::seconds(60));
      comm::Staged<comm::Threads> communicator(place);
      auto& table = cuda::detail::ChoiceTable::of_device(place.rank());
      table.clear();
      cuda::Backend<float> backend(place.rank());
      const cuda::Buffer<float> x(64), y(64);
      const auto body = [&] {
        cuda::multiply(backend, cuda::Product<float, float>{.rows = 8,
                                                            .columns = 8,
                                                            .depth = 8,
                                                            .left = x.data(),
                                                            .left_transposed = false,
                                                            .right = x.data(),
                                                            .right_transposed = false,
                                                            .result = y.data()});
      };
      body();
      backend.arena().commit();
      choose_alike(backend, communicator, [&] { backend.choose_products(body); });
      choices[static_cast<std::size_t>(place.rank())] = table.all();
      table.clear();
    });
    EXPECT_EQ(choices[0].size(), 1u);
    for (const auto& one : choices) EXPECT_EQ(one, choices[0]);
  }
  emulation::machine = {};
}
#endif

TEST_F(DeviceRanks, ClipAsTheProcessorsDo) {
  const auto staged = [](comm::Threads& place) {
    place.set_deadline(std::chrono::seconds(60));
    return comm::Staged<comm::Threads>(place);
  };
  Plan plan = short_plan;
  plan.clip_grad = 0.05;
  comm::Serial alone;
  cpu::Backend<float> backend(2);
  const auto host = train<optim::Sgd>(backend, alone, plan);
  for (const int ranks : numbers()) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const auto outcomes = on_device<Replicated, optim::Sgd>(ranks, staged, plan);
    EXPECT_LE(tensor_error<OnlineLayout<Learned>>(outcomes[0].student, host.student), 1e-4);
    for (const auto& outcome : outcomes) EXPECT_TRUE(outcome == outcomes[0]) << "ranks differ";
    for (auto split : on_device<ZeroStage1, optim::Sgd>(ranks, staged, plan)) {
      split.gradient = outcomes[0].gradient;
      EXPECT_TRUE(split == outcomes[0]) << "with split states";
    }
  }
}

}  // namespace
}  // namespace tessera::test
