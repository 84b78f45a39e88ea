#include "tessera/cuda/source.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "cuda/operation.hpp"
#include "support/run.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/data/array.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

class DeviceSourceTest : public DeviceTest<float> {};

using Objective = objectives::MoCoV3<VisionTransformer<image<14, 1>, patch<7>, 24, 1, 2>, heads::Mlp<3, 32, 16>,
                                     heads::Mlp<2, 32, 16>>;
using Backend = cuda::Backend<float>;

// The largest difference between crops of a group on the device and on the host.
double difference(const Backend& device, const auto& made, const auto& expected) {
  const auto values = downloaded(device, made.data, made.size());
  double worst = 0;
  for (index i = 0; i < made.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(values[static_cast<std::size_t>(i)] - expected.data[i])));
  return worst;
}

// The batches of 9 steps, into the second epoch.
template <class Reads, class Images = data::IdxDataset>
void check_views(const Images& images = noise(30, 20, 17)) {
  data::LoaderOptions options;
  options.batch = 4;
  const auto views = data::moco_v3_views(0.08);
  for (std::size_t crop = 0; crop < static_cast<std::size_t>(Reads::crops); ++crop)
    options.views.push_back(Reads::channels > 3 ? views[crop % 2].without_colors() : views[crop % 2]);
  if (Reads::channels > 3) options.normalization = data::measure_normalization(images);
  options.seed = 3;
  options.threads = 2;
  Backend device;
  static_cast<void>(device.arena().take<float>(1));
  device.arena().commit();
  cpu::Backend<float> host(1);
  cuda::DeviceSource<float, Reads, Images> there(device, images, options);
  data::HostSource<float, Reads, Images> here(host, images, options);
  const double level = 1.0 / 255 / static_cast<double>(options.normalization.deviation[0]);
  decltype(there.next().addresses()) addresses{};
  for (int step = 0; step < 9; ++step) {
    const auto made = there.next();
    if (step % 3 != 2) there.prepare();
    const auto expected = here.next();
    if (step == 0) addresses = made.addresses();
    EXPECT_EQ(made.addresses(), addresses) << "step " << step;
    data::for_crops<Reads>([&](auto group, int crop, int) {
      if (crop > 0) return;
      ASSERT_EQ(std::get<group>(made.crops).rows, std::get<group>(expected.crops).rows);
      EXPECT_LE(difference(device, std::get<group>(made.crops), std::get<group>(expected.crops)), 2 * level)
          << "step " << step << ", group " << group;
    });
    if constexpr (Reads::labels) {
      EXPECT_EQ(downloaded(device, made.labels, 4), std::vector<int>(expected.labels, expected.labels + 4));
    }
  }
}

TEST_F(DeviceSourceTest, GivesTheHostsViews) {
  check_views<Objective::Reads>();
}

TEST_F(DeviceSourceTest, GivesTheHostsGroupsOfCropsAndLabels) {
  check_views<data::Reads<data::Crops<2, image<14, 1>>, data::Crops<3, image<10, 3>>, data::Labels>>();
}

TEST_F(DeviceSourceTest, GivesTheHostsViewsOfAnyNumberOfChannels) {
  auto pixels = xt::xtensor<std::uint8_t, 4>::from_shape({30, 20, 17, 5});
  Random random(4, Purpose::test, 0, 0);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random.below(256));
  check_views<data::Reads<data::Crops<2, image<14, 5>>>>(data::ArrayDataset(pixels));
}

// A whole run from views to the k-NN monitor, beside one on the processor; and once more from the checkpoint that the
// processor wrote before its first step.
TEST_F(DeviceSourceTest, PreTrainsAsTheProcessorDoes) {
  const data::IdxDataset images = noise(40, 20, 17);
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("tessera_source_{}", static_cast<long>(::getpid()));
  Recipe recipe;
  recipe.arch = "test";
  recipe.batch_size = 8;
  recipe.epochs = 2;
  recipe.warmup_epochs = 0.5;
  recipe.threads = 1;
  const auto in = [&](const char* name) {
    Recipe with_folder = recipe;
    with_folder.out = folder / name;
    return with_folder;
  };
  using DeviceRun = WholeRun<Objective, Backend, cuda::DeviceSource>;
  testing::internal::CaptureStdout();
  cpu::Backend<float> host(1);
  WholeRun<Objective, cpu::Backend<float>> reference(host, in("host"), images);
  reference.save();
  std::filesystem::copy_file(folder / "host/checkpoint.safetensors", folder / "start.safetensors");
  EXPECT_TRUE(reference());
  Backend device, other;
  DeviceRun whole(device, in("device"), images);
  EXPECT_TRUE(whole());
  recipe.resume = folder / "start.safetensors";
  DeviceRun resumed(other, in("resumed"), images);
  EXPECT_TRUE(resumed());
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_NE(output.find("k-NN"), std::string::npos) << output;

  const auto ours = weights_of(whole.trainer()), theirs = weights_of(reference.trainer());
  EXPECT_EQ(weights_of(resumed.trainer()), ours);
  double worst = 0;
  for (std::size_t i = 0; i < ours.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i])));
  EXPECT_LT(worst, 2e-3);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tessera::test
