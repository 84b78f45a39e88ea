#include "tessera/data/resize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/image.hpp"

namespace tessera::test {
namespace {

using namespace data;
using Values = std::vector<std::uint8_t>;

Image resized(const Image& image, Box box, int height, int width, Filter filter) {
  ResizeScratch scratch;
  Image out;
  crop_resize(image, box, height, width, filter, scratch, out);
  return out;
}

Box whole(const Image& image) {
  return {0, 0, image.height, image.width};
}

Box random_box(const Image& image, Random& random) {
  const auto part = [&](int all) { return 1 + static_cast<int>(random.below(static_cast<std::uint32_t>(all))); };
  const int height = part(image.height), width = part(image.width);
  return {part(image.height - height + 1) - 1, part(image.width - width + 1) - 1, height, width};
}

double kernel(Filter filter, double x) {
  x = std::abs(x);
  if (filter == Filter::bilinear) return x < 1 ? 1 - x : 0;
  if (x < 1) return ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

// Position x of a line of `in` values resized to `out`, by the formulas of docs/method.md, 3.3; value(t) is the line.
template <class Value>
std::uint8_t resized_value(int x, int in, int out, Filter filter, Value value) {
  const double scale = static_cast<double>(in) / out, stretch = std::max(scale, 1.0), center = (x + 0.5) * scale;
  const double support = (filter == Filter::bilinear ? 1 : 2) * stretch;
  const int low = std::max(0, static_cast<int>(center - support + 0.5));
  const int high = std::min(in, static_cast<int>(center + support + 0.5));
  double total = 0;
  for (int t = low; t < high; ++t) total += kernel(filter, (t - center + 0.5) * (1 / stretch));
  int sum = 1 << 21;
  for (int t = low; t < high; ++t)
    sum += value(t) *
           static_cast<int>(std::lround(kernel(filter, (t - center + 0.5) * (1 / stretch)) / total * (1 << 22)));
  return static_cast<std::uint8_t>(std::clamp(sum >> 22, 0, 255));
}

Image expected_resize(const Image& image, Box box, int height, int width, Filter filter) {
  Image middle, out;
  middle.resize(box.height, width, image.channels);
  out.resize(height, width, image.channels);
  const int channels = image.channels;
  for (int i = 0; i < width * channels; ++i) {
    const int x = i / channels, c = i % channels;
    for (int y = 0; y < box.height; ++y) {
      const auto value = [&](int t) { return ImageView(image).row(box.top + y)[(box.left + t) * channels + c]; };
      middle.row(y)[i] = width == box.width ? value(x) : resized_value(x, box.width, width, filter, value);
    }
    for (int y = 0; y < height; ++y) {
      const auto value = [&](int t) { return middle.row(t)[i]; };
      out.row(y)[i] = height == box.height ? value(y) : resized_value(y, box.height, height, filter, value);
    }
  }
  return out;
}

TEST(Resize, EqualsTheFormulas) {
  Random random(5, Purpose::test, 0, 0);
  for (int i = 0; i < 300; ++i) {
    const Image image = random_image(64, random);
    const Box box = random_box(image, random);
    const int height = i % 5 == 0 ? box.height : 1 + static_cast<int>(random.below(64));
    const int width = i % 5 == 1 ? box.width : 1 + static_cast<int>(random.below(64));
    for (const Filter filter : {Filter::bilinear, Filter::bicubic})
      EXPECT_EQ(resized(image, box, height, width, filter).pixels,
                expected_resize(image, box, height, width, filter).pixels)
          << box.height << " x " << box.width << " x " << image.channels << " to " << height << " x " << width;
  }
}

TEST(Resize, OfTheSameSizeCopies) {
  Random random(5, Purpose::test, 1, 0);
  for (int i = 0; i < 100; ++i) {
    const Image image = random_image(64, random);
    EXPECT_EQ(resized(image, whole(image), image.height, image.width, Filter::bilinear).pixels, image.pixels);
    const Box box = random_box(image, random);
    const Image part = resized(image, box, box.height, box.width, Filter::bicubic);
    for (int y = 0; y < box.height; ++y)
      EXPECT_TRUE(std::equal(ImageView(part).row(y), ImageView(part).row(y) + box.width * image.channels,
                             ImageView(image).row(box.top + y) + box.left * image.channels));
  }
}

TEST(Resize, KeepsAConstant) {
  Random random(5, Purpose::test, 2, 0);
  for (int i = 0; i < 200; ++i) {
    Image image = random_image(64, random);
    const auto value = static_cast<std::uint8_t>(random.below(256));
    std::fill(image.pixels.begin(), image.pixels.end(), value);
    const int height = 1 + static_cast<int>(random.below(64)), width = 1 + static_cast<int>(random.below(64));
    for (const Filter filter : {Filter::bilinear, Filter::bicubic})
      EXPECT_EQ(resized(image, random_box(image, random), height, width, filter).pixels,
                Values(static_cast<std::size_t>(height * width * image.channels), value));
  }
}

TEST(Resize, OfASmallRow) {  // docs/method.md, 3.3
  const Image row = row_of({0, 10, 40, 90, 160, 250, 30, 70});
  const auto to = [&](int width, Filter filter) { return resized(row, whole(row), 1, width, filter).pixels; };
  EXPECT_EQ(to(4, Filter::bilinear), (Values{10, 70, 169, 79}));
  EXPECT_EQ(to(4, Filter::bicubic), (Values{4, 66, 185, 70}));
  EXPECT_EQ(to(12, Filter::bilinear), (Values{0, 5, 15, 35, 65, 102, 148, 205, 213, 67, 50, 70}));
  EXPECT_EQ(to(12, Filter::bicubic), (Values{0, 3, 14, 34, 63, 100, 147, 223, 228, 55, 38, 73}));
}

}  // namespace
}  // namespace tessera::test
