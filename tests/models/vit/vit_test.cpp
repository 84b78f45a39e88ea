#include "tessera/models/vit/vit.hpp"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "support/parity.hpp"
#include "support/passes.hpp"
#include "support/training.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

template <class Variant_, class Scalar_, int threads_>
struct Instance {
  using Variant = Variant_;
  using Scalar = Scalar_;
  static constexpr int threads = threads_;
};

template <class Instance>
class VisionTransformerParity : public testing::Test {};

using Instances = testing::Types<Instance<variant::Plain, double, 1>, Instance<variant::Plain, double, 3>,
                                 Instance<variant::Plain, float, 2>, Instance<variant::Gap, double, 1>,
                                 Instance<variant::Gap, float, 2>, Instance<variant::GapNormLearned, double, 1>,
                                 Instance<variant::GapNormLearned, float, 2>,
                                 Instance<variant::MlpBatchNorm, double, 2>, Instance<variant::MlpBatchNorm, float, 2>,
                                 Instance<variant::ConvStem, double, 2>, Instance<variant::ConvStem, float, 2>>;
TYPED_TEST_SUITE(VisionTransformerParity, Instances);

TYPED_TEST(VisionTransformerParity, EqualsTheReference) {
  cpu::Backend<typename TypeParam::Scalar> backend(TypeParam::threads);
  check_variant<typename TypeParam::Variant>(backend);
}

template <class Recompute>
using Encoder = VisionTransformer<image<24>, patch<6>, 20, 4, 5, 4, vit::policies<Recompute>>;
template <class Recompute>
using Objective = objectives::MoCoV3<Encoder<Recompute>, heads::Mlp<3, 36, 16>, heads::Mlp<2, 36, 16>>;

// Loss, gradients and weights of two steps, and the memory they took.
template <class Recompute>
auto two_steps() {
  using Trained = Objective<Recompute>;
  constexpr index batch = 6;
  cpu::Backend<float> backend(2);
  comm::Serial communicator;
  TrainerOn<Trained, cpu::Backend<float>> trainer(backend, communicator, optim::AdamW{}, {.batch = batch, .seed = 1});
  std::vector<float> images(2 * batch * Encoder<Recompute>::in);
  Random random(1, Purpose::test, 0, 0);
  for (float& value : images) value = static_cast<float>(random.normal());
  std::vector<double> losses;
  for (int i = 0; i < 2; ++i)
    losses.push_back(
        trainer.step(batch_of<Trained>(images.data(), batch), {.learning_rate = 1e-3, .frozen_gradients = true}));
  return std::make_tuple(losses, downloaded(backend, trainer.gradient(), OnlineLayout<Trained>::parameters),
                         weights_of(trainer), trainer.activation_bytes());
}

TEST(VisionTransformer, RecomputedBlocksGiveTheSameBitsInLessMemory) {
  const auto [losses, gradient, weights, bytes] = two_steps<recompute::None>();
  const auto [losses2, gradient2, weights2, bytes2] = two_steps<recompute::Blocks>();
  EXPECT_EQ(losses, losses2);
  EXPECT_EQ(gradient, gradient2);
  EXPECT_EQ(weights, weights2);
  EXPECT_LT(bytes2, bytes * 2 / 3);
}

template <class Model>
void compare_bf16_with_double() {
  cpu::Backend<double> exact(1);
  cpu::Backend<bf16> rounded(2);
  EXPECT_LT(relative_error(forward_and_backward<Model>(rounded).data(), forward_and_backward<Model>(exact)), 5e-2);
}

TEST(VisionTransformerBf16, IsCloseToDouble) {
  compare_bf16_with_double<PassesEncoder>();
  compare_bf16_with_double<PassesEncoder::at<image<12>>>();
  compare_bf16_with_double<PassesEncoder::Tokens>();
  compare_bf16_with_double<PassesEncoder::Visible<3>>();
}

}  // namespace
}  // namespace tessera::test
