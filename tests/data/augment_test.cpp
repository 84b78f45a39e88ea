#include "tessera/data/augment.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <map>

#include "support/fixture.hpp"
#include "support/image.hpp"
#include "tessera/data/normalization.hpp"

namespace tessera::test {
namespace {

using namespace data;

Image image_of(const Fixture& fixture, const std::string& key) {
  const Tensor& tensor = fixture.tensor(key);
  Image image;
  image.resize(static_cast<int>(tensor.shape[0]), static_cast<int>(tensor.shape[1]), static_cast<int>(tensor.shape[2]));
  std::transform(tensor.values.begin(), tensor.values.end(), image.pixels.begin(),
                 [](double value) { return static_cast<std::uint8_t>(value); });
  return image;
}

Image resized(const Image& image, Box box, int size, Filter filter) {
  ResizeScratch scratch;
  Image out;
  crop_resize(image, box, size, size, filter, scratch, out);
  return out;
}

Image blurred(Image image, float sigma) {
  BlurScratch scratch;
  gaussian_blur(image, sigma, scratch);
  return image;
}

void expect_equal(const std::string& what, const Image& image, const Image& expected, int levels = 0) {
  ASSERT_EQ(image.pixels.size(), expected.pixels.size()) << what;
  int worst = 0;
  for (std::size_t i = 0; i < image.pixels.size(); ++i)
    worst = std::max(worst, std::abs(image.pixels[i] - expected.pixels[i]));
  EXPECT_LE(worst, levels) << what;
}

TEST(Augment, OperationsEqualTorchvision) {
  const Fixture fixture("augment");
  const Image input = image_of(fixture, "input");
  using Operation = std::function<Image(Image)>;
  const auto in_place = [](auto function, auto... arguments) -> Operation {
    return [=](Image image) {
      function(image, arguments...);
      return image;
    };
  };
  const auto crop = [](Box box, int size, Filter filter) -> Operation {
    return [=](const Image& image) { return resized(image, box, size, filter); };
  };
  const std::map<std::string, Operation> operations{
      {"crop_resize_bilinear_24", crop({7, 9, 30, 41}, 24, Filter::bilinear)},
      {"crop_resize_bicubic_24", crop({7, 9, 30, 41}, 24, Filter::bicubic)},
      {"crop_upsample_bilinear_50", crop({3, 5, 17, 13}, 50, Filter::bilinear)},
      {"crop_upsample_bicubic_50", crop({3, 5, 17, 13}, 50, Filter::bicubic)},
      {"hflip", in_place(flip_horizontally)},
      {"brightness_1.35", in_place(adjust_brightness, 1.35f)},
      {"brightness_0.62", in_place(adjust_brightness, 0.62f)},
      {"contrast_1.4", in_place(adjust_contrast, 1.4f)},
      {"contrast_0.6", in_place(adjust_contrast, 0.6f)},
      {"saturation_1.2", in_place(adjust_saturation, 1.2f)},
      {"saturation_0.8", in_place(adjust_saturation, 0.8f)},
      {"hue_0.1", in_place(adjust_hue, 0.1f)},
      {"hue_-0.07", in_place(adjust_hue, -0.07f)},
      {"grayscale_3", in_place(to_grayscale)},
      {"gaussian_blur_0.1", [](const Image& image) { return blurred(image, 0.1f); }},
      {"gaussian_blur_0.9", [](const Image& image) { return blurred(image, 0.9f); }},
      {"gaussian_blur_2.0", [](const Image& image) { return blurred(image, 2.0f); }},
      {"solarize_128", in_place(solarize)},
  };
  for (const auto& [name, operation] : operations)
    expect_equal(name, operation(input), image_of(fixture, name), name.starts_with("gaussian") ? 1 : 0);
  EXPECT_EQ(operations.size() + 3, fixture.tensors().size());  // and input, chain_uint8, chain_normalized
}

TEST(Augment, ChainEqualsTorchvision) {
  const Fixture fixture("augment");
  Image image = resized(image_of(fixture, "input"), {2, 4, 38, 40}, 32, Filter::bilinear);
  adjust_brightness(image, 1.2f);
  adjust_contrast(image, 0.8f);
  adjust_saturation(image, 1.1f);
  adjust_hue(image, 0.05f);
  image = blurred(image, 1.3f);
  flip_horizontally(image);
  const Image expected = image_of(fixture, "chain_uint8");
  expect_equal("chain", image, expected, 1);
  std::vector<float> values(expected.pixels.size());
  to_float(expected, 3, imagenet_normalization, values.data());
  expect_close("chain_normalized", values.data(), fixture.tensor("chain_normalized"), 1e-6);
}

TEST(Augment, CropsLieInsideAndHaveTheAskedArea) {
  const ViewAugmentation a{.crop_min = 0.2, .crop_max = 0.5};
  double smallest = 1, largest = 0;
  for (std::uint32_t i = 0; i < 2000; ++i) {
    Random random(7, Purpose::test, 0, i);
    const Box box = random_crop(120, 90, a, random);
    ASSERT_TRUE(box.top >= 0 && box.left >= 0 && box.top + box.height <= 120 && box.left + box.width <= 90);
    const double area = box.height * box.width / (120.0 * 90.0), ratio = 1.0 * box.width / box.height;
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
    ASSERT_TRUE(ratio > 0.72 && ratio < 1.38) << ratio;
  }
  EXPECT_NEAR(smallest, 0.2, 0.01);
  EXPECT_NEAR(largest, 0.5, 0.01);
}

TEST(Augment, CropFallsBackToTheCentre) {
  const ViewAugmentation a{.crop_min = 0.9, .crop_max = 1.0};
  Random random(7, Purpose::test, 0, 0);
  const Box wide = random_crop(10, 100, a, random);
  EXPECT_EQ(wide.height, 10);
  EXPECT_EQ(wide.width, 13);
  EXPECT_EQ(wide.left, 43);
  const Box tall = random_crop(100, 10, a, random);
  EXPECT_EQ(tall.width, 10);
  EXPECT_EQ(tall.height, 13);
}

// Every operation on images of many sizes; the sanitizers see any access beyond an image.
TEST(Augment, OperationsKeepTheShape) {
  Random random(8, Purpose::test, 0, 0);
  for (int i = 0; i < 300; ++i) {
    Image image = random_image(64, random);
    const int height = image.height, width = image.width, channels = image.channels;
    const auto expect_shape = [&](const char* operation) {
      EXPECT_TRUE(image.height == height && image.width == width && image.channels == channels) << operation;
      EXPECT_EQ(image.pixels.size(), ImageView(image).size()) << operation;
    };
    adjust_brightness(image, random.uniform(0, 2));
    expect_shape("brightness");
    adjust_contrast(image, random.uniform(0, 2));
    expect_shape("contrast");
    adjust_saturation(image, random.uniform(0, 2));
    expect_shape("saturation");
    adjust_hue(image, random.uniform(-0.5f, 0.5f));
    expect_shape("hue");
    to_grayscale(image);
    expect_shape("grayscale");
    image = blurred(image, random.uniform(0.1f, 2.0f));
    expect_shape("blur");
    solarize(image);
    expect_shape("solarize");
    flip_horizontally(image);
    expect_shape("flip");
    std::vector<float> values(image.pixels.size());
    to_float(image, channels, imagenet_normalization, values.data());
    expect_shape("to_float");
  }
}

// Every operation that is not one of colours does with an image of any number of channels what it does with each.
TEST(Augment, OperationsTakeEachChannelForItself) {
  Random random(8, Purpose::test, 3, 0);
  for (int i = 0; i < 120; ++i) {
    const int channels = 2 + i % (most_channels - 1), size = 1 + static_cast<int>(random.below(40));
    const Image one = random_image(50, random);
    const Image image = random_image(one.height, one.width, channels, random);
    ViewAugmentation augmentation = moco_v3_views(0.08)[1].without_colors();
    augmentation.blur = augmentation.solarize = 0.5f;
    augmentation.filter = i % 2 == 0 ? Filter::bilinear : Filter::bicubic;
    const ViewParameters view = draw_view(image.height, image.width, augmentation, random);
    EXPECT_EQ(view.color_steps, 0);
    Normalization normalization{};
    normalization.channels = most_channels;
    for (float& mean : normalization.mean) mean = random.uniform();
    for (float& deviation : normalization.deviation) deviation = random.uniform(0.1f, 1);
    const auto pixels = static_cast<std::size_t>(size * size);
    std::vector<float> values(pixels * static_cast<std::size_t>(channels)), of_channel(pixels);
    AugmentScratch scratch, channel_scratch;
    const auto expect_same = [&](const Image& made, const Image& of_one, int c) {
      EXPECT_EQ(channel_of(made, c).pixels, of_one.pixels) << channels << " channels of " << size << ", channel " << c;
    };
    for (int c = 0; c < channels; ++c)
      expect_same(apply_view(image, view, size, scratch), apply_view(channel_of(image, c), view, size, channel_scratch),
                  c);
    to_float(scratch.view, channels, normalization, values.data());
    for (int c = 0; c < channels; ++c) {
      Normalization moved{};
      moved.mean[0] = normalization.mean[static_cast<std::size_t>(c)];
      moved.deviation[0] = normalization.deviation[static_cast<std::size_t>(c)];
      to_float(channel_of(scratch.view, c), 1, moved, of_channel.data());
      EXPECT_TRUE(std::equal(of_channel.begin(), of_channel.end(), values.begin() + c * size * size)) << c;
    }
    for (int c = 0; c < channels; ++c)
      expect_same(evaluation_view(image, size * 8 / 7, size, scratch),
                  evaluation_view(channel_of(image, c), size * 8 / 7, size, channel_scratch), c);
  }
}

TEST(Augment, ColoursAreThoseOfGreyAndRgbImages) {
  for (const int channels : {2, 4, most_channels}) {
    Image image;
    image.resize(3, 2, channels);
    EXPECT_NO_THROW(adjust_brightness(image, 0.5f));
    EXPECT_THROW(adjust_contrast(image, 0.5f), Error);
    EXPECT_THROW(adjust_saturation(image, 0.5f), Error);
    EXPECT_THROW(adjust_hue(image, 0.5f), Error);
    EXPECT_THAT([&] { to_grayscale(image); }, testing::ThrowsMessage<Error>(testing::HasSubstr("neither 1 channel")));
    for (const ViewAugmentation& view : moco_v3_views(0.08)) {
      EXPECT_THAT([&] { view.check_channels("view", channels); },
                  testing::ThrowsMessage<Error>(testing::HasSubstr("set view.jitter and view.grayscale to 0")));
      EXPECT_NO_THROW(view.without_colors().check_channels("view", channels));
      EXPECT_NO_THROW(view.check_channels("view", 1));
      EXPECT_NO_THROW(view.check_channels("view", 3));
    }
    EXPECT_NO_THROW(ViewAugmentation::crop_and_flip().check_channels("view", channels));
  }
}

TEST(Augment, ViewsHaveTheAskedSize) {
  Random random(8, Purpose::test, 1, 0);
  for (std::uint32_t i = 0; i < 200; ++i) {
    const Image image = random_image(64, random);
    const int size = 1 + static_cast<int>(random.below(40));
    AugmentScratch scratch;
    Random view_random(1, Purpose::view, 0, i);
    const Image& view = random_view(image, moco_v3_views(0.08)[i % 2], size, view_random, scratch);
    EXPECT_TRUE(view.height == size && view.width == size && view.channels == image.channels);
    AugmentScratch fresh;
    const int resize = size + static_cast<int>(random.below(8));
    const Image& evaluation = evaluation_view(image, resize, size, fresh);
    EXPECT_TRUE(evaluation.height == size && evaluation.width == size && evaluation.channels == image.channels)
        << image.height << " x " << image.width << ", " << resize << ", " << size;
  }
}

TEST(Augment, ViewsDoNotDependOnWhatTheScratchDidBefore) {
  Random random(8, Purpose::test, 2, 0);
  AugmentScratch used;
  for (std::uint32_t sample = 0; sample < 200; ++sample) {
    const Image image = random_image(64, random);
    const auto augmentation = moco_v3_views(0.2)[sample % 2];
    Random first(3, Purpose::view, 4, sample), second = first;
    AugmentScratch fresh;
    EXPECT_EQ(random_view(image, augmentation, 24, first, used).pixels,
              random_view(image, augmentation, 24, second, fresh).pixels);
  }
}

TEST(Augment, RefusesImpossibleStrengths) {
  const auto expect_refused = [](const char* member, auto change) {
    ViewAugmentation view;
    EXPECT_NO_THROW(view.check("view"));
    change(view);
    EXPECT_THAT([&] { view.check("view"); }, testing::ThrowsMessage<Error>(testing::StartsWith(member))) << member;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect_refused("view.crop_min", [](ViewAugmentation& view) { view.crop_min = 0; });
  expect_refused("view.crop_min", [](ViewAugmentation& view) { view.crop_min = 1.5; });
  expect_refused("view.crop_max", [](ViewAugmentation& view) { view.crop_max = 1.5; });
  expect_refused("view.ratio_min", [](ViewAugmentation& view) { view.ratio_min = -1; });
  expect_refused("view.ratio_min", [](ViewAugmentation& view) { view.ratio_max = 0.5; });
  expect_refused("view.jitter", [](ViewAugmentation& view) { view.jitter = 1.1f; });
  expect_refused("view.brightness", [](ViewAugmentation& view) { view.brightness = -1; });
  expect_refused("view.contrast", [&](ViewAugmentation& view) { view.contrast = nan; });
  expect_refused("view.saturation", [](ViewAugmentation& view) { view.saturation = -0.1f; });
  expect_refused("view.hue", [](ViewAugmentation& view) { view.hue = 0.6f; });
  expect_refused("view.grayscale", [&](ViewAugmentation& view) { view.grayscale = nan; });
  expect_refused("view.blur", [](ViewAugmentation& view) { view.blur = -0.5f; });
  expect_refused("view.blur_sigma_min", [](ViewAugmentation& view) { view.blur_sigma_min = 0; });
  expect_refused("view.blur_sigma_min", [](ViewAugmentation& view) { view.blur_sigma_min = 3; });
  expect_refused("view.solarize", [](ViewAugmentation& view) { view.solarize = 2; });
  expect_refused("view.flip", [](ViewAugmentation& view) { view.flip = -1; });
}

TEST(Augment, EvaluationTakesTheCentre) {
  AugmentScratch scratch;
  Image image;
  image.resize(64, 96, 3);
  EXPECT_EQ(evaluation_view(image, 32, 28, scratch).height, 28);
  EXPECT_EQ(scratch.view.width, 28);
  const Image row = row_of({1});
  EXPECT_EQ(evaluation_view(row, 1, 1, scratch).pixels, row.pixels);
}

}  // namespace
}  // namespace tessera::test
