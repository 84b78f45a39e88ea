#include "tessera/cuda/feed.hpp"

#include <unistd.h>

#include <filesystem>
#include <type_traits>

#include "cuda/operation.hpp"
#include "support/parity.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/data/idx.hpp"
#include "tessera/train/pretrain.hpp"

namespace tessera::test {
namespace {

class DeviceFeedTest : public DeviceTest<float> {};

using Method = objectives::MoCoV3<VisionTransformer<image<14, 1>, patch<7>, 24, 1, 2>, heads::Mlp<3, 32, 16>,
                                  heads::Mlp<2, 32, 16>>;
using Backend = cuda::Backend<float>;

data::IdxDataset noise(int count) {
  Random random(5, Purpose::test, 0, 0);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count) * 20 * 17), labels(static_cast<std::size_t>(count));
  for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  for (auto& label : labels) label = static_cast<std::uint8_t>(random.below(10));
  return {20, 17, std::move(pixels), std::move(labels)};
}

TEST_F(DeviceFeedTest, GivesTheHostsViews) {
  const data::IdxDataset images = noise(30);
  data::LoaderOptions options;
  options.batch_size = 4;
  options.image_size = 14;
  options.seed = 3;
  options.threads = 2;
  Backend device;
  static_cast<void>(device.arena().take<float>(1));
  device.arena().commit();
  cpu::Backend<float> host(1);
  cuda::DeviceFeed<Backend, Method, data::IdxDataset> there(device, images, options);
  HostFeed<cpu::Backend<float>, Method, data::IdxDataset> here(host, images, options);
  const double level = 1.0 / 255 / static_cast<double>(options.normalization.deviation[0]);
  for (int step = 0; step < 9; ++step) {  // into the second epoch
    const auto made = there.next();
    if (step % 3 != 2) there.prepare();
    const auto expected = here.next();
    ASSERT_EQ(made.rows, expected.rows);
    const auto values = downloaded(device, made.data, made.size());
    double worst = 0;
    for (index i = 0; i < made.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(values[static_cast<std::size_t>(i)] - expected.data[i])));
    EXPECT_LE(worst, 2 * level) << "step " << step;
  }
}

// A whole run from views to the k-NN monitor, beside one on the processor; and once more from the checkpoint that the
// processor wrote before its first step.
TEST_F(DeviceFeedTest, PreTrainsAsTheProcessorDoes) {
  const data::IdxDataset images = noise(40);
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("tessera_feed_{}", static_cast<long>(::getpid()));
  Recipe recipe;
  recipe.arch = "test";
  recipe.batch_size = 8;
  recipe.epochs = 2;
  recipe.warmup_epochs = 0.5;
  recipe.threads = 1;
  using DeviceRun = Pretraining<Method, optim::AdamW, data::IdxDataset, Backend, cuda::DeviceFeed>;
  using HostRun = Pretraining<Method, optim::AdamW, data::IdxDataset>;
  comm::Serial alone;
  const auto start = [&]<class Run>(auto& backend, const char* name, std::type_identity<Run>) {
    recipe.out = folder / name;
    return Run(backend, alone, recipe, images, images, data::imagenet_normalization);
  };
  const auto weights = [](auto& run) {
    return downloaded(run.trainer().backend(), static_cast<const float*>(run.trainer().state().student),
                      Layout<Method>::parameters);
  };
  testing::internal::CaptureStdout();
  cpu::Backend<float> host(1);
  HostRun reference = start(host, "host", std::type_identity<HostRun>{});
  reference.save();
  std::filesystem::copy_file(folder / "host/checkpoint.safetensors", folder / "start.safetensors");
  EXPECT_TRUE(reference.run());
  Backend device, other;
  DeviceRun whole = start(device, "device", std::type_identity<DeviceRun>{});
  EXPECT_TRUE(whole.run());
  recipe.resume = folder / "start.safetensors";
  DeviceRun resumed = start(other, "resumed", std::type_identity<DeviceRun>{});
  EXPECT_TRUE(resumed.run());
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_NE(output.find("k-NN"), std::string::npos) << output;

  EXPECT_EQ(weights(resumed), weights(whole));
  const auto theirs = weights(reference), ours = weights(whole);
  double worst = 0;
  for (std::size_t i = 0; i < ours.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i])));
  EXPECT_LT(worst, 2e-3);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tessera::test
