// Checkpoints that version 0.1 wrote: tests/fixtures/version_0_1.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "support/fixture.hpp"
#include "support/training.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/core/random.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<8, 1>, patch<4>, 8, 1, 2, 2, vit::policies<embed::FrozenPatches>>;
using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 8, 4>, heads::Mlp<2, 8, 4>>;
using Backend = cpu::Backend<double>;
constexpr int per_epoch = 3;

// The run that wrote the fixtures, with the recipe of today.
struct SameRun {
  explicit SameRun(const std::string& optimizer) {
    recipe.arch = "old";
    recipe.optimizer = optimizer;
    recipe.batch_size = 8;
    recipe.lr = 0.032;
    recipe.epochs = 2;
    recipe.warmup_epochs = 0.5;
    recipe.seed = 11;
    settings.momentum.cosine = true;
  }
  [[nodiscard]] Metadata identity() const {
    Metadata identity = recipe.identity(8 * per_epoch);
    for (const auto& [key, value] : objectives::identity_of(settings)) identity[key] = value;
    identity["normalization"] = "0.5 0.5 0.5 0.25 0.25 0.25";
    return identity;
  }
  template <class Trainer>
  void step(Trainer& trainer) const {
    std::vector<double> images(static_cast<std::size_t>(2 * recipe.batch_size * Encoder::in));
    Random random(3, Purpose::test, static_cast<std::uint32_t>(trainer.steps()), 0);
    for (double& value : images) value = random.uniform(-1, 1);
    StepSettings<Objective> now;
    now.settings = settings;
    now.epoch = static_cast<double>(trainer.steps()) / per_epoch;
    now.epochs = recipe.epochs;
    now.learning_rate = recipe.learning_rate(now.epoch);
    trainer.step(batch_of<Objective>(images.data(), trainer.batch()), now);
  }

  Recipe recipe;
  Objective::Settings settings;
  Backend backend{1};
  comm::Serial alone;
  TrainerOn<Objective, Backend> trainer() {
    return {backend, alone, recipe.make_optimizer(), {.batch = recipe.batch_size, .seed = recipe.seed}};
  }
};

[[nodiscard]] std::string written(const std::string& optimizer, int step) {
  return fmt::format("version_0_1/{}_{}", optimizer, step);
}
[[nodiscard]] std::filesystem::path file(const std::string& name) {
  return test_data() + "/fixtures/" + name + ".safetensors";
}

// Two steps from the third of 0.1 are its fifth: weights, averages, statistics and states.
void expect_resumed(const std::string& optimizer) {
  SameRun run(optimizer);
  auto trainer = run.trainer();
  load_checkpoint(file(written(optimizer, 3)), trainer, run.identity());
  ASSERT_EQ(trainer.steps(), 3);
  run.step(trainer);
  run.step(trainer);
  const Fixture expected(written(optimizer, 5));
  std::size_t compared = 0;
  trainer.with_tensors([&](const auto& tensors) {
    for (const auto& tensor : tensors) {
      expect_close(tensor.name, tensor.data, expected.tensor(tensor.name), 1e-6);  // Adam magnifies rounding near 0
      ++compared;
    }
  });
  EXPECT_EQ(compared, expected.tensors().size());
}

TEST(Version01, ResumesWithItsStates) {
  for (const char* optimizer : {"adamw", "lars", "lamb"}) {
    SCOPED_TRACE(optimizer);
    expect_resumed(optimizer);
  }
}

TEST(Version01, IsReadToTheBit) {
  SameRun run("adamw");
  auto trainer = run.trainer();
  load_checkpoint(file(written("adamw", 3)), trainer, run.identity());
  const Fixture expected(written("adamw", 3));
  trainer.with_tensors([&](const auto& tensors) {
    for (const auto& tensor : tensors)
      EXPECT_EQ(std::vector<double>(tensor.data, tensor.data + tensor.shape.size()),
                expected.values<double>(tensor.name))
          << tensor.name;
  });
}

TEST(Version01, ARunThatIsAnotherIsRefusedByVersion) {
  SameRun run("adamw");
  auto trainer = run.trainer();
  const auto refusal = [&] {
    try {
      load_checkpoint(file(written("adamw", 3)), trainer, run.identity());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  run.recipe.beta2 = 0.95;
  EXPECT_THAT(refusal(), testing::HasSubstr("was written by version 0.1 without beta2, but this run has beta2 = 0.95; "
                                            "leave it out to continue"));
  run.recipe.beta2.reset();
  run.settings.temperature = 0.3;
  EXPECT_THAT(refusal(), testing::HasSubstr("was written by version 0.1 with moco_t = 0.2, but this run has 0.3"));
}

}  // namespace
}  // namespace tessera::test
