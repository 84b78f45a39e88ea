#include "tessera/train/trainer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/data/idx.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/pretrain.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2, 4, vit::policies<embed::FrozenPatches>>;
using Method = objectives::MoCoV3<Encoder, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
using Backend = cpu::Backend<float>;
template <class Optimizer>
using ThisTrainer = Trainer<Method, Optimizer, Backend, comm::Serial>;

std::vector<float> random_images(index batch, std::uint32_t step) {
  std::vector<float> images(static_cast<std::size_t>(2 * batch * Method::in));
  Random random(3, Purpose::test, step, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  return images;
}

struct Fixture {
  explicit Fixture(int threads = 2, index batch = 6)
      : backend(threads), trainer(backend, communicator, {}, batch, 11) {}
  double step(std::uint32_t number) {
    const auto images = random_images(trainer.batch(), number);
    return trainer.step({images.data(), 2 * trainer.batch()}, {1e-3, {}});
  }
  std::vector<float> weights() {
    const auto state = trainer.state();
    return {state.student, state.student + ThisTrainer<optim::AdamW>::Student::parameters};
  }
  Backend backend;
  comm::Serial communicator;
  ThisTrainer<optim::AdamW> trainer;
};

std::filesystem::path scratch(const std::string& name) {
  const auto path = std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + name);
  return path;
}

TEST(Trainer, DoesNotDependOnTheNumberOfThreads) {
  Fixture one(1), three(3);
  for (std::uint32_t i = 0; i < 5; ++i) EXPECT_EQ(one.step(i), three.step(i));
  EXPECT_EQ(one.weights(), three.weights());
}

TEST(Trainer, ResumesBitwise) {
  const auto path = scratch("resume.safetensors");
  Fixture whole, first, second;
  for (std::uint32_t i = 0; i < 6; ++i) whole.step(i);
  for (std::uint32_t i = 0; i < 3; ++i) first.step(i);
  save_checkpoint(path, first.trainer, {{"arch", "test"}});
  load_checkpoint(path, second.trainer, {{"arch", "test"}});
  EXPECT_EQ(second.trainer.steps(), 3);
  for (std::uint32_t i = 3; i < 6; ++i) second.step(i);
  EXPECT_EQ(second.weights(), whole.weights());
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
  Backend backend(1);
  comm::Serial communicator;
  ThisTrainer<optim::Lars> lars(backend, communicator, {}, 6, 11);
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
  const auto before = run.weights();
  auto images = random_images(6, 1);
  images[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(run.trainer.step({images.data(), 12}, {1e-3, {}}), Error);
  EXPECT_EQ(run.weights(), before);
}

TEST(Trainer, RefusesABatchOfOne) {
  EXPECT_THAT([] { Fixture run(1, 1); }, testing::ThrowsMessage<Error>(testing::HasSubstr("at least 2 images")));
}

TEST(Trainer, LearnsToTellImagesApart) {
  Fixture run;
  const auto images = random_images(6, 0);
  std::vector<float> same(images.begin(), images.begin() + 6 * Method::in);
  same.insert(same.end(), same.begin(), same.begin() + 6 * Method::in);
  const double first = run.trainer.step({same.data(), 12}, {1e-3, {}});
  double last = first;
  for (int i = 0; i < 60; ++i) last = run.trainer.step({same.data(), 12}, {3e-3, {}});
  EXPECT_LT(last, 0.5 * first);
}

// A small data set of noise.
data::IdxDataset noise(int count) {
  Random random(5, Purpose::test, 0, 0);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count) * 196), labels(static_cast<std::size_t>(count));
  for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  for (auto& label : labels) label = static_cast<std::uint8_t>(random.below(10));
  return {14, 14, std::move(pixels), std::move(labels)};
}

TEST(Pretraining, ResumesBitwiseFromItsCheckpoint) {
  using Run = Pretraining<Method, optim::AdamW, data::IdxDataset>;
  const data::IdxDataset images = noise(40);
  Recipe recipe;
  recipe.arch = "test";
  recipe.batch_size = 8;
  recipe.epochs = 2;
  recipe.warmup_epochs = 0.5;
  recipe.out = scratch("run");
  testing::internal::CaptureStdout();
  const auto weights = [](Run& run) {
    const auto state = run.trainer().state();
    return std::vector<float>(state.student, state.student + Layout<Method>::parameters);
  };
  Backend one(2), two(2), three(2);
  comm::Serial alone;
  Run whole(one, alone, recipe, images, images, data::imagenet_normalization);
  EXPECT_TRUE(whole.run());

  {
    Run stopped(two, alone, recipe, images, images, data::imagenet_normalization);
    stopped.save();
  }
  recipe.resume = recipe.out / "checkpoint.safetensors";
  recipe.workers = 2;
  Run resumed(three, alone, recipe, images, images, data::imagenet_normalization);
  EXPECT_TRUE(resumed.run());
  testing::internal::GetCapturedStdout();
  EXPECT_EQ(weights(whole), weights(resumed));
  std::filesystem::remove_all(recipe.out);
}

}  // namespace
}  // namespace tessera::test
