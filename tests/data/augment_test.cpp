#include "tessera/data/augment.hpp"

#include <gtest/gtest.h>

#include <map>

#include "support/fixture.hpp"

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

Image row_of(std::vector<std::uint8_t> values) {
  Image image;
  image.resize(1, static_cast<int>(values.size()), 1);
  image.pixels = std::move(values);
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

TEST(Augment, ResizeOfASmallRow) {  // spec 9.14
  const Image row = row_of({0, 10, 40, 90, 160, 250, 30, 70});
  const auto to = [&](int width, Filter filter) {
    ResizeScratch scratch;
    Image out;
    crop_resize(row, {0, 0, 1, 8}, 1, width, filter, scratch, out);
    return out.pixels;
  };
  using Values = std::vector<std::uint8_t>;
  EXPECT_EQ(to(4, Filter::bilinear), (Values{10, 70, 169, 79}));
  EXPECT_EQ(to(4, Filter::bicubic), (Values{4, 66, 185, 70}));
  EXPECT_EQ(to(12, Filter::bilinear), (Values{0, 5, 15, 35, 65, 102, 148, 205, 213, 67, 50, 70}));
  EXPECT_EQ(to(12, Filter::bicubic), (Values{0, 3, 14, 34, 63, 100, 147, 223, 228, 55, 38, 73}));
}

TEST(Augment, BlurOfAPoint) {  // spec 9.13
  Image image;
  image.resize(9, 9, 1);
  image.pixels[40] = 255;
  const auto middle = [&](float sigma) {
    const Image out = blurred(image, sigma);
    return std::vector<std::uint8_t>(out.pixels.begin() + 36, out.pixels.begin() + 45);
  };
  using Values = std::vector<std::uint8_t>;
  EXPECT_EQ(middle(2.0f), (Values{2, 4, 6, 8, 9, 8, 6, 4, 2}));
  EXPECT_EQ(middle(0.5f), (Values{0, 0, 1, 21, 154, 21, 1, 0, 0}));
}

TEST(Augment, BoxesOfTheBlur) {  // spec 3.5
  struct Line {
    float sigma;
    int whole;
    std::uint32_t weight, edge;
  };
  for (const Line& line :
       {Line{0.1f, 0, 16721291, 27962}, Line{0.5f, 0, 15379114, 699051}, Line{1.0f, 0, 11184811, 2796202},
        Line{1.23f, 0, 8316466, 4230375}, Line{1.4142f, 0, 5592621, 5592297}, Line{1.5f, 1, 5452595, 209715},
        Line{1.77f, 1, 4958842, 950345}, Line{2.0f, 1, 4473924, 1677722}}) {
    const BoxBlur box = BoxBlur::for_gaussian(line.sigma);
    EXPECT_EQ(box.whole, line.whole) << line.sigma;
    EXPECT_EQ(box.weight, line.weight) << line.sigma;
    EXPECT_EQ(box.edge_weight, line.edge) << line.sigma;
  }
}

TEST(Augment, SolarizeAndGrayscale) {  // spec 9.12
  Image row = row_of({127, 128, 255});
  solarize(row);
  EXPECT_EQ(row.pixels, (std::vector<std::uint8_t>{127, 127, 0}));
  EXPECT_EQ(luminance(255, 0, 0), 76);
  EXPECT_EQ(luminance(0, 255, 0), 150);
  EXPECT_EQ(luminance(0, 0, 255), 29);
}

TEST(Augment, HueOfSingleColours) {  // spec 9.15
  const auto turned = [](std::vector<std::uint8_t> rgb, float shift) {
    Image image;
    image.resize(1, 1, 3);
    image.pixels = std::move(rgb);
    adjust_hue(image, shift);
    return image.pixels;
  };
  using Values = std::vector<std::uint8_t>;
  EXPECT_EQ(turned({200, 30, 90}, -0.1f), (Values{200, 31, 190}));
  EXPECT_EQ(turned({200, 30, 90}, 0.1f), (Values{200, 66, 31}));
  EXPECT_EQ(turned({12, 250, 130}, -0.1f), (Values{35, 250, 13}));
  EXPECT_EQ(turned({12, 250, 130}, 0.1f), (Values{13, 230, 250}));
  EXPECT_EQ(turned({255, 254, 0}, -0.1f), (Values{255, 102, 0}));
  EXPECT_EQ(turned({255, 254, 0}, 0.1f), (Values{108, 255, 0}));
  EXPECT_EQ(turned({90, 90, 90}, 0.1f), (Values{90, 90, 90}));
}

TEST(Augment, GreyImagesKeepToModeL) {
  Image image = row_of({3, 99, 200, 255});
  const Image before = image;
  adjust_hue(image, 0.1f);
  adjust_saturation(image, 1.2f);
  to_grayscale(image);
  EXPECT_EQ(image.pixels, before.pixels);
  adjust_contrast(image, 0.0f);
  EXPECT_EQ(image.pixels, std::vector<std::uint8_t>(4, 139));  // the mean, 139.25
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
