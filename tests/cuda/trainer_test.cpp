#include "tessera/train/trainer.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>

#include "cuda/operation.hpp"
#include "support/parity.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/train/callbacks/save.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/product_choices.hpp"
#include "tessera/train/run.hpp"

namespace tessera::test {
namespace {

class DeviceTrainer : public DeviceTest<float> {};

using Objective =
    objectives::MoCoV3<VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2, 4, vit::policies<embed::FrozenPatches>>,
                       heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;

std::vector<double> random_images(index batch, std::uint32_t step) {
  Random random(3, Purpose::test, step, 0);
  std::vector<double> images(static_cast<std::size_t>(2 * batch * Objective::Encoder::in));
  for (double& value : images) value = random.normal();
  return images;
}

template <class Backend>
struct Training {
  using Scalar = typename Backend::Scalar;
  using ThisTrainer = TrainerOn<Objective, Backend>;

  explicit Training(index batch = 6) : trainer(backend, communicator, optim::AdamW{}, {.batch = batch, .seed = 11}) {}

  [[nodiscard]] auto batch() const {
    return batch_of<Objective>(static_cast<const Scalar*>(images.data()), trainer.batch());
  }
  double step(std::uint32_t number) {
    images.assign(random_images(trainer.batch(), number));
    return trainer.step(batch(), {.learning_rate = 1e-3, .frozen_gradients = number % 2 == 1});
  }

  Backend backend;
  comm::Serial communicator;
  ThisTrainer trainer;
  Held<Scalar, Backend> images{backend, 2 * trainer.batch() * Objective::Encoder::in};
};

using Low = Training<cuda::Backend<bf16>>;

TEST_F(DeviceTrainer, RepeatsItsBits) {
  Low one, two;
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(one.step(i), two.step(i));
  EXPECT_EQ(weights_of(one.trainer), weights_of(two.trainer));
}

// A run that goes on in another process, whose table of choices is empty: the file beside the checkpoint fills it.
TEST_F(DeviceTrainer, ContinuesWithTheChoicesOfTheFirstRun) {
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("tessera_choices_{}", static_cast<long>(::getpid()));
  std::filesystem::create_directories(folder);
  Recipe recipe;
  recipe.out = folder;
  const auto start_process = [] { cuda::detail::ChoiceTable::of_device(0).clear(); };
  start_process();
  Low first;
  for (std::uint32_t i = 0; i < 2; ++i) first.step(i);
  {
    tessera::Run run(first.trainer, recipe, Objective::Settings{}, 10);
    Report report(recipe.metrics(), 0, true, {});
    SaveCheckpoints(report, {{"arch", "test"}}).save(run);
  }
  const double next = first.step(2);
  const std::string choices = first.backend.products().choices();
  for (int i = 0; i < 3; ++i) {
    start_process();
    cuda::Backend<bf16> reader;
    EXPECT_EQ(load_choices(choices_beside(recipe.checkpoint()), reader), "");
    Low second;
    load_checkpoint(recipe.checkpoint(), second.trainer, {{"arch", "test"}});
    EXPECT_EQ(second.backend.products().choices(), choices);
    EXPECT_EQ(second.step(2), next);
    EXPECT_EQ(weights_of(second.trainer), weights_of(first.trainer));
  }
  start_process();
  cuda::Backend<bf16> reader;
  EXPECT_EQ(load_choices(folder / "none.txt", reader), "");
  io::replace_file(folder / "products.txt", choices.substr(0, choices.size() / 2));
  EXPECT_THAT(load_choices(folder / "products.txt", reader),
              testing::AllOf(testing::HasSubstr("products.txt: line "), testing::HasSubstr("chosen anew")));
  EXPECT_TRUE(cuda::detail::ChoiceTable::of_device(0).all().empty());
  std::filesystem::remove_all(folder);
}

// Weights trained on a device go on anywhere, and the other way round.
TEST_F(DeviceTrainer, SharesCheckpointsWithTheProcessor) {
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("tessera_cuda_{}.safetensors", static_cast<long>(::getpid()));
  Low first, second;
  for (std::uint32_t i = 0; i < 3; ++i) first.step(i);
  save_checkpoint(path, first.trainer, {{"arch", "test"}});
  load_checkpoint(path, second.trainer, {{"arch", "test"}});
  EXPECT_EQ(second.trainer.steps(), 3);
  const double next = first.step(3);
  EXPECT_EQ(second.step(3), next);
  EXPECT_EQ(weights_of(second.trainer), weights_of(first.trainer));

  Training<cpu::Backend<float>> host;
  load_checkpoint(path, host.trainer, {{"arch", "test"}});
  EXPECT_NEAR(host.step(3), next, 5e-2);
  std::filesystem::remove(path);
}

TEST_F(DeviceTrainer, LeavesWeightsAsTheyWereIfAGradientIsNotFinite) {
  Low run;
  run.step(0);
  const auto before = weights_of(run.trainer);
  auto images = random_images(6, 1);
  images[5] = std::numeric_limits<double>::quiet_NaN();
  run.images.assign(images);
  EXPECT_THAT([&] { run.trainer.step(run.batch(), {.learning_rate = 1e-3}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("not finite; weights were left as they were")));
  EXPECT_EQ(weights_of(run.trainer), before);
  EXPECT_EQ(run.trainer.steps(), 1);
}

TEST_F(DeviceTrainer, RefusesAnUpdateThatMakesWeightsInfinite) {
  Low run;
  run.step(0);
  EXPECT_THAT([&] { run.trainer.step(run.batch(), {.learning_rate = 1e300}); },
              testing::ThrowsMessage<NotFinite>(
                  testing::HasSubstr("step 2: the update made 'base_encoder.cls_token' infinite or not a number")));
  EXPECT_EQ(run.trainer.steps(), 1);
}

TEST_F(DeviceTrainer, MeasuresGradientsAsTheProcessorDoes) {
  Training<cuda::Backend<float>> device;
  Training<cpu::Backend<float>> host;
  device.step(1);
  host.step(1);
  for (const char* prefix : {"base_encoder.patch_embed", "base_encoder.blocks.1.", "predictor."})
    EXPECT_NEAR(device.trainer.gradient_norm(prefix), host.trainer.gradient_norm(prefix),
                1e-3 * host.trainer.gradient_norm(prefix))
        << prefix;
}

#if defined(TESSERA_EMULATION)

TEST_F(DeviceTrainer, AllocatesAndWaitsForNothingInAStep) {
  Low run;
  run.step(0);
  run.images.assign(random_images(6, 2));
  emulation::machine.allocations = emulation::machine.waits = 0;
  run.trainer.start(run.batch(), {.learning_rate = 1e-3});
  EXPECT_EQ(emulation::machine.allocations, 0);
  EXPECT_EQ(emulation::machine.waits, 0);
  run.trainer.finish();
}

TEST_F(DeviceTrainer, SaysWhichBatchFits) {
  const std::size_t memory = std::exchange(emulation::machine.memory, std::size_t{40} << 20);
  const auto start = [](index batch) {
    cuda::Backend<bf16> backend;
    comm::Serial communicator;
    const Low::ThisTrainer trainer(backend, communicator, optim::AdamW{}, {.batch = batch, .seed = 11});
  };
  index fits = 0;
  try {
    start(100000);
  } catch (const OutOfMemory& error) {
    const std::string what = error.what(), before = "the largest batch that fits is ";
    EXPECT_THAT(what, testing::HasSubstr("a batch of 100000 needs"));
    if (const std::size_t at = what.find(before); at != std::string::npos)
      fits = std::stol(what.substr(at + before.size()));
  }
  ASSERT_GT(fits, 1);
  EXPECT_NO_THROW(start(fits));
  EXPECT_THROW(start(fits + 1), OutOfMemory);
  emulation::machine.memory = memory;
}

TEST_F(DeviceTrainer, RefusesABatchBeforeItStartsToCompute) {
  const std::size_t memory = std::exchange(emulation::machine.memory, std::size_t{40} << 20);
  emulation::machine.launches = 0;
  EXPECT_THROW(Low(100000), OutOfMemory);
  EXPECT_EQ(emulation::machine.launches, 0) << "no initial value was uploaded";
  emulation::machine.memory = memory;
}

TEST_F(DeviceTrainer, TimesProductsOfValuesThatAreNotZero) {
  cuda::detail::ChoiceTable::of_device(0).clear();
  emulation::machine.zero_operands = emulation::machine.loads_in_capture = 0;
  emulation::machine.loaded.clear();
  Low run;
  run.backend.wait();
  EXPECT_GT(cuda::detail::ChoiceTable::of_device(0).all().size(), 10u);
  EXPECT_EQ(emulation::machine.zero_operands, 0);
  run.step(0);
  EXPECT_EQ(emulation::machine.loads_in_capture, 0);
}

#endif

}  // namespace
}  // namespace tessera::test
