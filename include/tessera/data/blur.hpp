// Gaussian blur by three box blurs for each axis, bitwise equal to Pillow's (docs/method.md, 3.5).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// A box blur of fractional radius, in pixels: `whole` is its integer part, weight that of the 2 * whole + 1 inner
// pixels, edge_weight that of the two pixels next to them, both in units of 2^-24.
struct BoxBlur {
  float radius;
  int whole;
  std::uint32_t weight, edge_weight;

  // The box that, applied three times, approximates a Gaussian with standard deviation sigma in pixels. sigma > 0.
  [[nodiscard]] TESSERA_HOST_DEVICE static BoxBlur for_gaussian(float sigma) {
    const float s = sigma * sigma / 3.0f;
    const float length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(s) + 1.0));
    const float l = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
    const float product = static_cast<float>(3.0 * static_cast<double>(s));  // rounded before the difference
    float a = (2 * l + 1) * (l * (l + 1) - product);
    a /= 6 * (s - (l + 1) * (l + 1));
    const float radius = l + a;
    const int whole = static_cast<int>(radius);
    const auto weight = static_cast<std::uint32_t>(static_cast<float>(1 << 24) / (radius * 2 + 1));
    return {radius, whole, weight, ((1u << 24) - static_cast<std::uint32_t>(2 * whole + 1) * weight) / 2};
  }

  // The blurred value, from the sum of the inner pixels and the sum of the two edge pixels.
  [[nodiscard]] TESSERA_HOST_DEVICE std::uint8_t value(std::uint32_t sum, std::uint32_t edges) const {
    return static_cast<std::uint8_t>((weight * sum + edge_weight * edges + (1u << 23)) >> 24);
  }
};

// Scratch of gaussian_blur, one for each thread.
struct BlurScratch {
  std::vector<std::uint8_t> first, second, across;
};

namespace detail {

// One box blur along the columns of x (length x stride bytes) to y, which must not be x. The inner loop runs along a
// row, in memory order.
inline void blur_columns(const BoxBlur& box, int length, int stride, const std::uint8_t* x, std::uint8_t* y) {
  in_pieces(stride, [=](int column, auto size) {
    const auto row = [=](int i) { return x + (i < 0 ? 0 : i >= length ? length - 1 : i) * stride + column; };
    std::uint32_t sums[largest_piece] = {};
    for (int i = -box.whole; i <= box.whole; ++i)
      for (int c = 0; c < size; ++c) sums[c] += row(i)[c];
    for (int i = 0; i < length; ++i) {
      const std::uint8_t* const before = row(i - box.whole - 1);
      const std::uint8_t* const after = row(i + box.whole + 1);
      const std::uint8_t* const leaving = row(i - box.whole);
      std::uint8_t blurred[largest_piece];
      for (int c = 0; c < size; ++c) {
        const std::uint32_t edges = static_cast<std::uint32_t>(before[c]) + after[c];
        blurred[c] = box.value(sums[c], edges);
        sums[c] += static_cast<std::uint32_t>(after[c]) - leaving[c];
      }
      std::copy_n(blurred, size, y + i * stride + column);
    }
  });
}

}  // namespace detail

// Blurs the image in place. sigma is the standard deviation in pixels, > 0.
inline void gaussian_blur(Image& image, float sigma, BlurScratch& scratch) {
  const BoxBlur box = BoxBlur::for_gaussian(sigma);
  const int height = image.height, width = image.width, channels = image.channels;
  std::vector<std::uint8_t>& a = scratch.first;
  std::vector<std::uint8_t>& b = scratch.second;
  const int stride = width * channels;
  a.resize(image.pixels.size());
  b.resize(image.pixels.size());
  scratch.across.resize(image.pixels.size());
  const auto blur = [&](int length, int bytes) {
    for (int pass = 0; pass < 3; ++pass) {
      detail::blur_columns(box, length, bytes, a.data(), b.data());
      std::swap(a, b);
    }
  };
  detail::for_strips(height, [&](int y, int rows) {
    detail::transpose_bytes(rows, stride, image.row(y), stride, a.data(), rows);
    blur(width, rows * channels);
    detail::transpose_bytes(stride, rows, a.data(), rows, scratch.across.data() + y * stride, stride);
  });
  std::swap(a, scratch.across);
  blur(height, stride);
  std::swap(image.pixels, a);
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
