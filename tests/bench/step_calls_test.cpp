// A training step makes the calls that the scaling model counts on.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "../../bench/scale_model.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/tessera.hpp"

namespace bench {
namespace {

using comm::Operation;
using Tiny = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 512, 128>, ts::heads::Mlp<2, 512, 128>>;
using Communicator = comm::Recorded<comm::Threads>;
using Backend = ts::cpu::Backend<float>;

constexpr std::array operations{Operation::all_reduce, Operation::reduce_scatter, Operation::all_gather};

// Of one step on `ranks` ranks, as rank 0 records it.
template <template <class, class> class Sharing>
std::array<Handed, operations.size()> recorded(int ranks, index batch, index bucket_bytes) {
  std::array<Handed, operations.size()> counted;
  comm::run_threads(ranks, [&](comm::Threads& threads) {
    Communicator communicator(threads);
    Backend backend(1);
    ts::Trainer<Tiny, ts::Device<Backend, Communicator, Sharing>> trainer(
        backend, communicator, ts::optim::AdamW{}, {.batch = batch, .seed = 1, .bucket_bytes = bucket_bytes});
    std::vector<float> images(static_cast<std::size_t>(2 * batch * Tiny::Encoder::in));
    ts::Random random(1, ts::Purpose::test, static_cast<std::uint64_t>(threads.rank()), 0);
    for (float& value : images) value = random.uniform(-1, 1);
    std::array<comm::Record::Total, operations.size()> before;
    for (std::size_t i = 0; i < operations.size(); ++i) before[i] = communicator.record().total(operations[i]);
    trainer.step(batch_of<Tiny>(static_cast<const float*>(images.data()), batch), {.learning_rate = 1e-4});
    if (threads.rank() != 0) return;
    for (std::size_t i = 0; i < operations.size(); ++i) {
      const auto after = communicator.record().total(operations[i]);
      counted[i] = {after.calls - before[i].calls, after.bytes - before[i].bytes};
    }
  });
  return counted;
}

template <template <class, class> class Sharing>
void expect_the_models_calls(bool zero) {
  const Model tiny = describe<Tiny>("tiny");
  for (const index bucket_bytes : {index{100000}, index{400000}, index{25} << 20}) {
    Plan plan;
    plan.ranks = 3;
    plan.images = 12;
    plan.bucket_bytes = bucket_bytes;
    plan.activations = comm::Type::float32;
    plan.zero = zero;
    const auto calls = collectives(tiny, plan);
    const auto counted = recorded<Sharing>(plan.ranks, plan.images_per_rank(), bucket_bytes);
    for (std::size_t i = 0; i < operations.size(); ++i) {
      const Handed expected = handed_in(calls, operations[i]);
      EXPECT_EQ(counted[i].calls, expected.calls)
          << comm::name(operations[i]) << " with buckets of " << bucket_bytes << " bytes";
      EXPECT_EQ(counted[i].bytes, expected.bytes)
          << comm::name(operations[i]) << " with buckets of " << bucket_bytes << " bytes";
    }
  }
}

TEST(ScaleModel, ListsTheCallsOfAReplicatedStep) {
  expect_the_models_calls<comm::Replicated>(false);
}
TEST(ScaleModel, ListsTheCallsOfAStepWithSplitStates) {
  expect_the_models_calls<comm::ZeroStage1>(true);
}

}  // namespace
}  // namespace bench
