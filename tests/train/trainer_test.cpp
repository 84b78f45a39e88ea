#include "tessera/train/trainer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/train/checkpoint.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2, 4, vit::policies<embed::FrozenPatches>>;
using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
using Backend = cpu::Backend<float>;
using ThisTrainer = TrainerOn<Objective, Backend>;

template <class Scalar = float>
std::vector<Scalar> random_images(index batch, std::uint32_t step) {
  std::vector<Scalar> images(static_cast<std::size_t>(2 * batch * Encoder::in));
  Random random(3, Purpose::test, step, 0);
  for (Scalar& value : images) value = Scalar(random.uniform(-1, 1));
  return images;
}

template <class Scalar>
struct FixtureIn {
  explicit FixtureIn(int threads = 2, index batch = 6)
      : backend(threads), trainer(backend, communicator, optim::AdamW{}, {.batch = batch, .seed = 11}) {}
  double step(const std::vector<Scalar>& images, double learning_rate = 1e-3) {
    return trainer.step(batch_of<Objective>(images.data(), trainer.batch()), {.learning_rate = learning_rate});
  }
  double step(std::uint32_t number) { return step(random_images<Scalar>(trainer.batch(), number)); }
  cpu::Backend<Scalar> backend;
  comm::Serial communicator;
  TrainerOn<Objective, cpu::Backend<Scalar>> trainer;
};
using Fixture = FixtureIn<float>;

std::filesystem::path scratch(const std::string& name) {
  const auto path = std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + name);
  return path;
}

template <class Scalar>
class TrainerIn : public testing::Test {};
using Scalars = testing::Types<float, bf16>;
TYPED_TEST_SUITE(TrainerIn, Scalars);

TYPED_TEST(TrainerIn, DoesNotDependOnTheNumberOfThreads) {
  FixtureIn<TypeParam> one(1), three(3);
  for (std::uint32_t i = 0; i < 5; ++i) EXPECT_EQ(one.step(i), three.step(i));
  EXPECT_EQ(weights_of(one.trainer), weights_of(three.trainer));
}

TYPED_TEST(TrainerIn, ResumesBitwise) {
  const auto path = scratch("resume.safetensors");
  FixtureIn<TypeParam> whole, first, second;
  for (std::uint32_t i = 0; i < 6; ++i) whole.step(i);
  for (std::uint32_t i = 0; i < 3; ++i) first.step(i);
  save_checkpoint(path, first.trainer, {{"arch", "test"}});
  load_checkpoint(path, second.trainer, {{"arch", "test"}});
  EXPECT_EQ(second.trainer.steps(), 3);
  for (std::uint32_t i = 3; i < 6; ++i) second.step(i);
  EXPECT_EQ(weights_of(second.trainer), weights_of(whole.trainer));
  std::filesystem::remove(path);
}

TEST(Trainer, RefusesCheckpointsOfOtherRuns) {
  const auto path = scratch("other.safetensors");
  Fixture run;
  save_checkpoint(path, run.trainer, {{"arch", "test"}});
  EXPECT_THAT(
      [&] {
        load_checkpoint(path, run.trainer, {{"arch", "else"}});
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("was written with arch = test, but this run has else")));
  save_checkpoint(path, run.trainer, {{"arch", "test"}, {"beta2", "0.95"}, {"blur", ""}});
  EXPECT_THAT(
      [&] {
        load_checkpoint(path, run.trainer, {{"arch", "test"}, {"beta2", ""}, {"blur", ""}});
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("was written with beta2 = 0.95, but this run has none")));
  Backend backend(1);
  comm::Serial communicator;
  ThisTrainer lars(backend, communicator, optim::Lars{}, {.batch = 6, .seed = 11});
  EXPECT_THAT(
      [&] {
        load_checkpoint(path, lars, {{"arch", "test"}});
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("optimizer = adamw, but this run has lars")));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 5);
  EXPECT_THROW(load_checkpoint(path, run.trainer, {{"arch", "test"}}), Error);
  std::filesystem::remove(path);
}

TEST(Trainer, NamesTheTensorWhoseGradientIsNotFinite) {
  Fixture run;
  run.step(0);
  const auto before = weights_of(run.trainer);
  auto images = random_images(6, 1);
  images[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(run.step(images), Error);
  EXPECT_EQ(weights_of(run.trainer), before);
}

// What a trainer says when an update overflows at one of 100 steps; the step does not count, and the exit code is 76.
template <class Rule>
std::string refusal(Rule rule, double learning_rate) {
  Backend backend(2);
  comm::Serial communicator;
  ThisTrainer trainer(backend, communicator, rule, {.batch = 6, .seed = 11});
  const auto images = random_images(6, 0);
  for (long step = 0; step < 100; ++step) {
    try {
      trainer.step(batch_of<Objective>(images.data(), 6), {.learning_rate = learning_rate});
    } catch (const NotFinite& problem) {
      EXPECT_EQ(problem.exit_code(), 76);
      EXPECT_EQ(trainer.steps(), step);
      return problem.what();
    }
  }
  return "nothing";
}

// The weights of patches are frozen, and the class token is the first that is trained.
TEST(Trainer, NamesTheTensorThatTheUpdateMadeInfinite) {
  using testing::StartsWith;
  const std::string token = "step 1: the update made 'base_encoder.cls_token' infinite or not a number";
  EXPECT_THAT(refusal(optim::AdamW{}, 1e300), StartsWith(token));
  EXPECT_THAT(refusal(optim::Sgd{}, 1e300), StartsWith(token));
  EXPECT_THAT(refusal(optim::Lars{}, 1e300), StartsWith(token));
  EXPECT_THAT(refusal(optim::Lamb{}, 1e300), StartsWith(token));
  EXPECT_THAT(refusal(optim::AdamW{.weight_decay = 1e37}, 1e3), StartsWith(token));
}

// Leaves the weights alone, and adds the rate to its state.
struct Adding {
  static constexpr std::string_view name = "adding";
  static constexpr int states = 1;
  struct Coefficients {
    double learning_rate;
  };
  [[nodiscard]] static Coefficients coefficients(double learning_rate, long) { return {learning_rate}; }
  template <class Number>
  static constexpr Number factors(const Coefficients& c, const optim::Group&) {
    return static_cast<Number>(c.learning_rate);
  }
  template <class Number, class Value>
  static constexpr void update(Number rate, Value&, Value, Value& state) {
    state = state + rate;
  }
};

TEST(Trainer, NamesTheMomentThatTheUpdateMadeInfinite) {
  EXPECT_EQ(refusal(Adding{}, 1e38),
            "step 4: the update made 'optimizer.0.base_encoder.cls_token' infinite or not a number, so that this run "
            "cannot go on; continue from the last checkpoint with a smaller learning rate, a longer warm-up or clipped "
            "gradients");
}

TEST(Trainer, GoesOnAtALargeRateWhileAllIsFinite) {
  EXPECT_EQ(refusal(Adding{}, 1e36), "nothing");
}

TEST(Trainer, RefusesALimitOfTheNormBelowZero) {
  Backend backend(1);
  comm::Serial communicator;
  EXPECT_THAT([&] { ThisTrainer(backend, communicator, optim::AdamW{}, {.batch = 6, .clip_grad = -1}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("clipped to a norm of -1; give a number above 0")));
}

TEST(Trainer, RefusesABatchOfOne) {
  EXPECT_THAT([] { Fixture run(1, 1); }, testing::ThrowsMessage<Error>(testing::HasSubstr("at least 2 images")));
}

TEST(Trainer, LearnsToTellImagesApart) {
  Fixture run;
  const auto images = random_images(6, 0);
  std::vector<float> same(images.begin(), images.begin() + 6 * Encoder::in);
  same.insert(same.end(), same.begin(), same.begin() + 6 * Encoder::in);
  const double first = run.step(same);
  double last = first;
  for (int i = 0; i < 60; ++i) last = run.step(same, 3e-3);
  EXPECT_LT(last, 0.5 * first);
}

}  // namespace
}  // namespace tessera::test
