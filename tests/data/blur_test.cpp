#include "tessera/data/blur.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/image.hpp"

namespace tessera::test {
namespace {

using namespace data;
using Values = std::vector<std::uint8_t>;

Image blurred(Image image, float sigma) {
  BlurScratch scratch;
  gaussian_blur(image, sigma, scratch);
  return image;
}

// One pass along one axis by the formula of docs/method.md, 3.5.
Image box_pass(const Image& image, const BoxBlur& box, bool horizontal) {
  Image out = image;
  const auto at = [&](int y, int x, int c, int step) -> std::uint32_t {
    y = std::clamp(horizontal ? y : y + step, 0, image.height - 1);
    x = std::clamp(horizontal ? x + step : x, 0, image.width - 1);
    return ImageView(image).row(y)[x * image.channels + c];
  };
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      for (int c = 0; c < image.channels; ++c) {
        std::uint32_t whole = 0;
        for (int step = -box.whole; step <= box.whole; ++step) whole += at(y, x, c, step);
        const std::uint32_t edges = at(y, x, c, -box.whole - 1) + at(y, x, c, box.whole + 1);
        out.row(y)[x * image.channels + c] =
            static_cast<std::uint8_t>((box.weight * whole + box.edge_weight * edges + (1u << 23)) >> 24);
      }
  return out;
}

TEST(Blur, EqualsTheFormula) {
  Random random(4, Purpose::test, 0, 0);
  for (int i = 0; i < 60; ++i) {
    const Image image = random_image(i < 10 ? 90 : 30, random);
    const float sigma = random.uniform(0.1f, i % 4 == 0 ? 9.0f : 2.0f);
    const BoxBlur box = BoxBlur::for_gaussian(sigma);
    Image expected = image;
    for (const bool horizontal : {true, true, true, false, false, false})
      expected = box_pass(expected, box, horizontal);
    EXPECT_EQ(blurred(image, sigma).pixels, expected.pixels)
        << image.height << " x " << image.width << " x " << image.channels << ", sigma " << sigma;
  }
}

// The weights of a box sum to 1 or to 2^-24 less, which rounding removes.
TEST(Blur, KeepsAConstant) {
  Random random(4, Purpose::test, 1, 0);
  for (int i = 0; i < 200; ++i) {
    Image image = random_image(40, random);
    std::fill(image.pixels.begin(), image.pixels.end(), static_cast<std::uint8_t>(random.below(256)));
    EXPECT_EQ(blurred(image, random.uniform(0.01f, 5.0f)).pixels, image.pixels);
  }
}

TEST(Blur, OfAPoint) {  // docs/method.md, 3.5
  Image image;
  image.resize(9, 9, 1);
  image.pixels[40] = 255;
  const auto middle = [&](float sigma) {
    const Image out = blurred(image, sigma);
    return Values(out.pixels.begin() + 36, out.pixels.begin() + 45);
  };
  EXPECT_EQ(middle(2.0f), (Values{2, 4, 6, 8, 9, 8, 6, 4, 2}));
  EXPECT_EQ(middle(0.5f), (Values{0, 0, 1, 21, 154, 21, 1, 0, 0}));
}

TEST(Blur, Boxes) {  // docs/method.md, 3.5
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

}  // namespace
}  // namespace tessera::test
