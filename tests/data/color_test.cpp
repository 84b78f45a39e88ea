#include "tessera/data/color.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/image.hpp"

namespace tessera::test {
namespace {

using namespace data;
using Values = std::vector<std::uint8_t>;

// The formulas of docs/method.md, 3.4 as they stand there; what is volatile cannot be fused with the next operation.

int blend(int degenerate, int value, float factor) {
  const volatile float product = factor * static_cast<float>(value - degenerate);
  const float mixed = static_cast<float>(degenerate) + product;
  return mixed <= 0 ? 0 : mixed >= 255 ? 255 : static_cast<int>(mixed);
}

detail::Hsv to_hsv(int red, int green, int blue) {
  const int high = std::max({red, green, blue}), low = std::min({red, green, blue});
  if (high == low) return {0, 0, high};
  const auto share = [&](int value) { return static_cast<float>(high - value) / static_cast<float>(high - low); };
  const float rc = share(red), gc = share(green), bc = share(blue);
  const double sixths = red == high ? bc - gc : green == high ? 2.0 + rc - bc : 4.0 + gc - rc;
  const float hue = static_cast<float>(std::fmod(static_cast<double>(static_cast<float>(sixths)) / 6 + 1, 1));
  const float saturation = static_cast<float>(high - low) / static_cast<float>(high);
  return {static_cast<int>(hue * 255.0), static_cast<int>(saturation * 255.0), high};
}

std::array<int, 3> from_hsv(detail::Hsv hsv) {
  const int v = hsv.value;
  if (hsv.saturation == 0) return {v, v, v};
  const double sixths = hsv.hue * 6.0 / 255.0;
  const int sector = static_cast<int>(std::floor(sixths));
  const float f = static_cast<float>(sixths - sector), fs = static_cast<float>(hsv.saturation / 255.0);
  const volatile float fsf = fs * f;
  const auto times = [v](double factor) { return static_cast<int>(std::round(v * factor)); };
  const int p = times(1.0 - static_cast<double>(fs)), q = times(1.0 - static_cast<double>(fsf));
  const int t = times(1.0 - static_cast<double>(fs) * (1.0 - static_cast<double>(f)));
  const std::array<std::array<int, 3>, 6> sectors{{{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}}};
  return sectors[static_cast<std::size_t>(sector % 6)];
}

// Calls body(a, b, c) for all triples of 8-bit values.
template <class Body>
void for_all_triples(Body body) {
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b)
      for (int c = 0; c < 256; ++c) body(a, b, c);
}

TEST(Color, AllColoursConvertToHsv) {
  int wrong = 0;
  for_all_triples([&](int red, int green, int blue) {
    const detail::Hsv hsv = detail::to_hsv(red, green, blue), expected = to_hsv(red, green, blue);
    wrong += hsv.hue != expected.hue || hsv.saturation != expected.saturation || hsv.value != expected.value;
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Color, AllColoursConvertFromHsv) {
  int wrong = 0;
  for_all_triples([&](int hue, int saturation, int value) {
    const detail::Hsv hsv{hue, saturation, value};
    const std::array<int, 3> expected = from_hsv(hsv);
    for (std::size_t c = 0; c < 3; ++c) wrong += detail::from_hsv(hsv, 2 * static_cast<int>(c)) != expected[c];
  });
  EXPECT_EQ(wrong, 0);
}

TEST(Color, AllBlendsEqualTheFormula) {
  for (const float factor : {0.0f, 0.6f, 0.8123456f, 0.99999994f, 1.0f, 1.0000001f, 1.1f, 1.4f, 2.0f, 1e9f}) {
    int wrong = 0;
    for (int degenerate = 0; degenerate < 256; ++degenerate)
      for (int value = 0; value < 256; ++value)
        wrong += detail::blend(degenerate, value, factor) != blend(degenerate, value, factor);
    EXPECT_EQ(wrong, 0) << factor;
  }
}

// change(rgb) for every pixel.
template <class Change>
Image changed(Image image, Change change) {
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    const std::uint8_t* const from = image.pixels.data() + i;
    const std::array<int, 3> rgb = change(std::array<int, 3>{from[0], from[1], from[2]});
    std::copy(rgb.begin(), rgb.end(), image.pixels.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return image;
}

int grey_of(std::array<int, 3> rgb) {
  return (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16;
}

// Images whose pixels make no whole number of blocks, and ones that do.
TEST(Color, ImagesEqualTheFormulas) {
  for (std::uint32_t number = 0; number < 40; ++number) {
    Random random(3, Purpose::test, 0, number);
    const int height = 1 + static_cast<int>(random.below(9)), width = number < 4 ? 64 : 1 + static_cast<int>(number);
    const Image image = random_image(height, width, 3, random);
    const float factor = random.uniform(0.6f, 1.4f), shift = random.uniform(-0.5f, 0.5f);
    Image saturated = image, turned = image, grey = image;
    adjust_saturation(saturated, factor);
    adjust_hue(turned, shift);
    to_grayscale(grey);
    EXPECT_EQ(saturated.pixels,
              changed(image, [&](std::array<int, 3> rgb) {
                const int l = grey_of(rgb);
                return std::array{blend(l, rgb[0], factor), blend(l, rgb[1], factor), blend(l, rgb[2], factor)};
              }).pixels);
    EXPECT_EQ(turned.pixels, changed(image, [&](std::array<int, 3> rgb) {
                               detail::Hsv hsv = to_hsv(rgb[0], rgb[1], rgb[2]);
                               hsv.hue = (hsv.hue + static_cast<int>(shift * 255.0) + 256) % 256;
                               return from_hsv(hsv);
                             }).pixels);
    EXPECT_EQ(grey.pixels, changed(image, [](std::array<int, 3> rgb) {
                             const int l = grey_of(rgb);
                             return std::array{l, l, l};
                           }).pixels);
  }
}

TEST(Color, ContrastTurnsAroundTheRoundedMean) {
  Image image = image_of(1, 3, 3, {255, 0, 0, 0, 255, 0, 10, 20, 30});  // luminance 76, 150, 18: mean 81.33
  adjust_contrast(image, 0.5f);
  EXPECT_EQ(image.pixels, (Values{168, 40, 40, 40, 168, 40, 45, 50, 55}));
}

TEST(Color, FactorOneChangesNothing) {
  Random random(3, Purpose::test, 1, 0);
  for (int i = 0; i < 50; ++i) {
    const Image before = random_image(40, random);
    Image image = before;
    adjust_brightness(image, 1);
    adjust_contrast(image, 1);
    adjust_saturation(image, 1);
    EXPECT_EQ(image.pixels, before.pixels);
  }
}

// As in Pillow, the way to HSV and back loses the last bits, but not the largest channel.
TEST(Color, HueZeroGoesToHsvAndBack) {
  Random random(3, Purpose::test, 2, 0);
  const Image before = random_image(30, 30, 3, random);
  Image image = before;
  adjust_hue(image, 0);
  EXPECT_NE(image.pixels, before.pixels);
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    const std::uint8_t *const a = before.pixels.data() + i, *const b = image.pixels.data() + i;
    EXPECT_EQ(*std::max_element(a, a + 3), *std::max_element(b, b + 3));
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(a[c], b[c], 7);
  }
}

TEST(Color, HueOfSingleColours) {  // docs/method.md, 3.4
  const auto turned = [](Values rgb, float shift) {
    Image image = image_of(1, 1, 3, std::move(rgb));
    adjust_hue(image, shift);
    return image.pixels;
  };
  EXPECT_EQ(turned({200, 30, 90}, -0.1f), (Values{200, 31, 190}));
  EXPECT_EQ(turned({200, 30, 90}, 0.1f), (Values{200, 66, 31}));
  EXPECT_EQ(turned({12, 250, 130}, -0.1f), (Values{35, 250, 13}));
  EXPECT_EQ(turned({12, 250, 130}, 0.1f), (Values{13, 230, 250}));
  EXPECT_EQ(turned({255, 254, 0}, -0.1f), (Values{255, 102, 0}));
  EXPECT_EQ(turned({255, 254, 0}, 0.1f), (Values{108, 255, 0}));
  EXPECT_EQ(turned({90, 90, 90}, 0.1f), (Values{90, 90, 90}));
}

TEST(Color, Luminance) {  // docs/method.md, 3.4
  EXPECT_EQ(luminance(255, 0, 0), 76);
  EXPECT_EQ(luminance(0, 255, 0), 150);
  EXPECT_EQ(luminance(0, 0, 255), 29);
}

TEST(Color, Solarize) {  // docs/method.md, 3.6
  Image row = row_of({0, 127, 128, 255});
  solarize(row);
  EXPECT_EQ(row.pixels, (Values{0, 127, 127, 0}));
  solarize(row);  // nothing is left to invert
  EXPECT_EQ(row.pixels, (Values{0, 127, 127, 0}));
}

TEST(Color, FlipMirrorsRows) {
  Image grey = image_of(2, 3, 1, {1, 2, 3, 4, 5, 6}), rgb = image_of(1, 3, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  flip_horizontally(grey);
  flip_horizontally(rgb);
  EXPECT_EQ(grey.pixels, (Values{3, 2, 1, 6, 5, 4}));
  EXPECT_EQ(rgb.pixels, (Values{7, 8, 9, 4, 5, 6, 1, 2, 3}));
  Random random(3, Purpose::test, 3, 0);
  for (int i = 0; i < 100; ++i) {
    const Image before = random_image(64, random);
    Image image = before;
    flip_horizontally(image);
    flip_horizontally(image);
    EXPECT_EQ(image.pixels, before.pixels);
  }
}

TEST(Color, GreyImagesKeepToModeL) {
  Image image = row_of({3, 99, 200, 255});
  const Image before = image;
  adjust_hue(image, 0.1f);
  adjust_saturation(image, 1.2f);
  to_grayscale(image);
  EXPECT_EQ(image.pixels, before.pixels);
  adjust_contrast(image, 0.0f);
  EXPECT_EQ(image.pixels, Values(4, 139));  // the mean, 139.25
}

}  // namespace
}  // namespace tessera::test
