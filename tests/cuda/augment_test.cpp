#include "tessera/cuda/augment.hpp"

#include "cuda/operation.hpp"
#include "support/image.hpp"

namespace tessera::test {
namespace {

using namespace data;
using cuda::ViewTask;

// Levels themselves, which float and bf16 hold exactly.
constexpr Normalization levels{{0, 0, 0}, {1.0f / 255, 1.0f / 255, 1.0f / 255}};

struct Case {
  Image image;
  ViewParameters view;
};

// Images one after the other at odd places, and the tasks that name them.
class Tasks {
 public:
  explicit Tasks(const std::vector<Case>& cases) {
    std::vector<std::uint8_t> bytes;
    std::vector<ViewTask> tasks;
    for (const auto& [image, view] : cases) {
      bytes.resize(bytes.size() + 1 + tasks.size() % 7, 0xA5);
      tasks.push_back({static_cast<index>(bytes.size()), image.width, image.channels, view});
      bytes.insert(bytes.end(), image.pixels.begin(), image.pixels.end());
    }
    upload(bytes, pixels_);
    upload(tasks, tasks_);
  }

  [[nodiscard]] const std::uint8_t* pixels() const { return pixels_.data(); }
  [[nodiscard]] const ViewTask* tasks() const { return tasks_.data(); }

 private:
  template <class Element>
  static void upload(const std::vector<Element>& from, cuda::Buffer<Element>& to) {
    to = cuda::Buffer<Element>(static_cast<index>(from.size()));
    if (cudaMemcpy(to.data(), from.data(), from.size() * sizeof(Element), cudaMemcpyHostToDevice) != cudaSuccess)
      throw Error("cudaMemcpy to the device failed");
  }

  cuda::Buffer<std::uint8_t> pixels_;
  cuda::Buffer<ViewTask> tasks_;
};

// What the host makes of a case, as Scalar stores it.
template <class Scalar>
Matrix expected_views(const std::vector<Case>& cases, int channels, int size, const Normalization& normalization) {
  Matrix expected(static_cast<index>(cases.size()), index{channels} * size * size);
  AugmentScratch scratch;
  std::vector<float> values(static_cast<std::size_t>(expected.columns));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    to_float(apply_view(cases[i].image, cases[i].view, size, scratch), channels, normalization, values.data());
    std::copy(values.begin(), values.end(), expected.values.begin() + static_cast<index>(i) * expected.columns);
  }
  return stored<Scalar>(expected);
}

enum class Planes { as_fits, in_global };

template <class Scalar, int channels, int size>
void check(const std::vector<Case>& cases, const Normalization& normalization = levels,
           Planes planes = Planes::as_fits) {
  const Matrix expected = expected_views<Scalar>(cases, channels, size, normalization);
  const Tasks tasks(cases);
  const DeviceValues<Scalar> views(expected.rows, expected.columns);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        const auto to = views.template output<channels * size * size>();
        if (planes == Planes::as_fits)
          cuda::augment<channels, size>(backend, tasks.tasks(), expected.rows, tasks.pixels(), normalization, to);
        else
          cuda::detail::augment<false, channels, size>(backend, tasks.tasks(), expected.rows, tasks.pixels(),
                                                       normalization, to, 2);
      },
      views);
  const Matrix got = views.values();
  for (index i = 0; i < got.rows; ++i) {
    double worst = 0;
    for (index column = 0; column < got.columns; ++column) {
      const double difference = std::abs(got(i, column) - expected(i, column));
      worst = difference <= worst ? worst : difference;
    }
    const auto& [image, view] = cases[static_cast<std::size_t>(i)];
    EXPECT_EQ(worst, 0) << "view " << i << " of size " << size << ": " << image.height << " x " << image.width << " x "
                        << image.channels << ", crop " << view.crop.height << " x " << view.crop.width << " at "
                        << view.crop.top << ", " << view.crop.left << ", " << view.color_steps << " colour steps, blur "
                        << view.blur_sigma << ", solarize " << view.solarize << ", flip " << view.flip;
  }
}

ViewParameters whole(const Image& image) {
  ViewParameters view;
  view.crop = {0, 0, image.height, image.width};
  return view;
}

Case with(Image image, auto change) {
  ViewParameters view = whole(image);
  change(view);
  return {std::move(image), view};
}

// Smooth, so that hues and blurs matter, with some noise.
Image smooth_image(int height, int width, int channels, Random& random) {
  Image image = random_image(height, width, channels, random);
  for (int y = 0; y < height; ++y)
    for (int i = 0; i < width * channels; ++i) {
      const int slope = (y * (1 + i % channels) * 200 / height + i * 100 / (width * channels)) % 256;
      image.row(y)[i] = static_cast<std::uint8_t>((slope * 7 + image.row(y)[i]) / 8);
    }
  return image;
}

std::vector<Case> each_operation(int size, int channels) {
  Random random(1, Purpose::test, 20, static_cast<std::uint32_t>(size));
  const auto image = [&] { return smooth_image(size + 9, size - 3, channels, random); };
  std::vector<Case> cases;
  cases.push_back(with(image(), [](ViewParameters&) {}));
  cases.push_back(with(random_image(size, size, channels, random), [](ViewParameters&) {}));
  using enum ColorOperation;
  for (const auto& [operation, amount] : {ColorStep{brightness, 1.4f},
                                          {brightness, 0.3f},
                                          {brightness, 1},
                                          {contrast, 0},
                                          {contrast, 1.7f},
                                          {contrast, 0.6f},
                                          {saturation, 2.5f},
                                          {saturation, 0.2f},
                                          {hue, 0.5f},
                                          {hue, -0.07f},
                                          {hue, 0},
                                          {grayscale, 0}}) {
    const ColorStep step{operation, amount};
    cases.push_back(with(image(), [&](ViewParameters& view) { view.add(step); }));
    cases.push_back(with(random_image(size, size, channels, random), [&](ViewParameters& view) { view.add(step); }));
  }
  for (const float sigma : {0.1f, 0.7f, 2.0f, 9.0f, 40.0f})
    cases.push_back(with(image(), [&](ViewParameters& view) { view.blur_sigma = sigma; }));
  cases.push_back(with(image(), [](ViewParameters& view) { view.solarize = true; }));
  cases.push_back(with(image(), [](ViewParameters& view) { view.flip = true; }));
  return cases;
}

// Views as they are drawn, from images of all shapes.
std::vector<Case> drawn(int count, int largest, int channels, std::uint32_t stream) {
  std::vector<Case> cases;
  Random random(1, Purpose::test, 21, stream);
  for (int i = 0; i < count; ++i) {
    Image image = random_image(largest, random);
    if (image.channels > channels) image = random_image(image.height, image.width, 1, random);
    ViewAugmentation a = moco_v3_views(0.08)[static_cast<std::size_t>(i % 2)];
    if (i % 3 == 0) a.jitter = a.blur = 1, a.hue = 0.5f, a.contrast = 2, a.blur_sigma_max = 12, a.grayscale = 0.5f;
    const ViewParameters view = draw_view(image.height, image.width, a, random);
    cases.push_back({std::move(image), view});
  }
  return cases;
}

template <class Scalar>
class DeviceAugment : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceAugment, DeviceScalars);

TYPED_TEST(DeviceAugment, EveryOperationEqualsTheHosts) {
  check<TypeParam, 1, 28>(each_operation(28, 1));
  check<TypeParam, 3, 32>(each_operation(32, 3));
  check<TypeParam, 3, 33>(each_operation(33, 3));
}

TYPED_TEST(DeviceAugment, DrawnViewsEqualTheHosts) {
  check<TypeParam, 3, 14>(drawn(40, 100, 3, 1));
  check<TypeParam, 1, 28>(drawn(20, 60, 1, 2));
  check<TypeParam, 3, 56>(drawn(40, 150, 3, 3));
  check<TypeParam, 3, 33>(drawn(1, 150, 3, 4));
}

// Views of other than 1 or 3 channels, of crops of every size, have no colour steps.
std::vector<Case> without_colors(int channels, std::uint32_t stream) {
  Random random(1, Purpose::test, 25, stream);
  std::vector<Case> cases;
  for (int i = 0; i < 12; ++i) {
    Image image = random_image(i == 0 ? 900 : 20 + 5 * i, 64 - 3 * i, i % 4 == 3 ? 1 : channels, random);
    ViewAugmentation augmentation = moco_v3_views(0.2)[1].without_colors();
    augmentation.solarize = augmentation.blur = 0.5f;
    if (i % 3 == 2) augmentation.filter = Filter::bicubic;
    const ViewParameters view = draw_view(image.height, image.width, augmentation, random);
    cases.push_back({std::move(image), view});
  }
  cases.push_back(with(random_image(700, 100, channels, random), [](ViewParameters&) {}));
  return cases;
}

TYPED_TEST(DeviceAugment, MakesViewsOfAnyNumberOfChannels) {
  Normalization normalization{};
  normalization.channels = most_channels;
  for (std::size_t c = 0; c < normalization.mean.size(); ++c) {
    normalization.mean[c] = static_cast<float>(c) / 20;
    normalization.deviation[c] = static_cast<float>(c + 1) / 10;
  }
  check<TypeParam, 2, 28>(without_colors(2, 0), normalization);
  check<TypeParam, 5, 32>(without_colors(5, 1), normalization);
  check<TypeParam, most_channels, 33>(without_colors(most_channels, 2), normalization);
  check<TypeParam, most_channels, 14>(without_colors(most_channels, 3), normalization, Planes::in_global);
}

TYPED_TEST(DeviceAugment, NormalizesAsTheHostDoes) {
  check<TypeParam, 3, 32>(drawn(12, 60, 3, 5), imagenet_normalization);
  check<TypeParam, 1, 28>(drawn(12, 60, 1, 6), {{0.1307f, 0, 0}, {0.3081f, 1, 1}});
}

// Of crops so large that their rows are resized in strips, or do not fit at all, and whose taps are not all kept.
TYPED_TEST(DeviceAugment, ResizesCropsOfAnySize) {
  Random random(1, Purpose::test, 22, 0);
  std::vector<Case> cases;
  for (const auto& [height, width] :
       {std::pair{1, 1}, {700, 3}, {3, 700}, {900, 171}, {1930, 2}, {2100, 340}, {14, 154}})
    for (const int channels : {1, 3})
      cases.push_back(with(random_image(height, width, channels, random), [](ViewParameters&) {}));
  check<TypeParam, 3, 14>(cases);
  Image image = random_image(90, 80, 3, random);
  cases.clear();
  for (const Box box :
       {Box{89, 79, 1, 1}, {0, 79, 90, 1}, {89, 0, 1, 80}, {11, 13, 32, 32}, {10, 5, 32, 70}, {58, 2, 31, 33}})
    cases.push_back(with(image, [&](ViewParameters& view) { view.crop = box; }));
  check<TypeParam, 3, 32>(cases);
}

// Bicubic, whose weights are negative at both ends: noise of black and white overshoots on both sides. Crops are
// enlarged, shrunk, of the view's own size on one axis, or so large that rows come in strips, do not fit, or have more
// taps than are kept.
TYPED_TEST(DeviceAugment, ResizesBicubically) {
  Random random(1, Purpose::test, 24, 0);
  const auto bicubic = [](ViewParameters& view) { view.filter = Filter::bicubic; };
  std::vector<Case> cases;
  for (const auto& [height, width] :
       {std::pair{1, 1}, {2, 3}, {9, 14}, {14, 31}, {40, 14}, {61, 33}, {500, 3}, {900, 171}, {1930, 2}})
    for (const int channels : {1, 3}) {
      cases.push_back(with(random_image(height, width, channels, random), bicubic));
      Image extremes = random_image(height, width, channels, random);
      for (std::uint8_t& value : extremes.pixels) value = value < 128 ? 0 : 255;
      cases.push_back(with(extremes, bicubic));
      cases.push_back(with(extremes, [](ViewParameters&) {}));
    }
  check<TypeParam, 3, 14>(cases);
  cases.clear();
  for (int i = 0; i < 12; ++i) {
    Image image = smooth_image(70 + 7 * i, 90 - 3 * i, 3, random);
    const auto augmentation = ViewAugmentation::crop_and_flip(0.2, i % 4 == 3 ? Filter::bilinear : Filter::bicubic);
    const ViewParameters view = draw_view(image.height, image.width, augmentation, random);
    cases.push_back({std::move(image), view});
  }
  check<TypeParam, 3, 33>(cases);
  check<TypeParam, 3, 33>(cases, imagenet_normalization, Planes::in_global);
}

TYPED_TEST(DeviceAugment, PlanesMayLieInGlobalMemory) {
  check<TypeParam, 3, 32>(drawn(7, 80, 3, 7), levels, Planes::in_global);
  check<TypeParam, 3, 32>(drawn(1, 80, 3, 8), levels, Planes::in_global);
}

TYPED_TEST(DeviceAugment, MakesLargeViews) {
  Random random(1, Purpose::test, 23, 0);
  std::vector<Case> cases;
  for (const auto& augmentation : moco_v3_views(0.5)) {
    Image image = smooth_image(375, 500, 3, random);
    ViewParameters view = draw_view(image.height, image.width, augmentation, random);
    view.colors = {{{ColorOperation::saturation, 1.1f},
                    {ColorOperation::contrast, 0.7f},
                    {ColorOperation::hue, 0.1f},
                    {ColorOperation::brightness, 1.3f}}};
    view.color_steps = 4;
    view.blur_sigma = 1.3f;
    cases.push_back({std::move(image), view});
  }
  check<TypeParam, 3, 224>(cases);
  cases.pop_back();
  check<TypeParam, 3, 384>(cases);
}

}  // namespace
}  // namespace tessera::test
