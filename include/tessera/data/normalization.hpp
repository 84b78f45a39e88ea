// From 8-bit pixels to the floats that a network sees.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Channel means and standard deviations of pixels in 0..1.
struct Normalization {
  std::array<float, 3> mean, deviation;
};
inline constexpr Normalization imagenet_normalization{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

// What an 8-bit value of a channel becomes: (value / 255 - mean) / deviation.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr float normalized(int value, int channel, const Normalization& by) {
  const auto at = static_cast<std::size_t>(channel);
  return (static_cast<float>(value) / 255.0f - by.mean[at]) / by.deviation[at];
}

// Planar floats (channels, height, width), normalized. A grey image fills all `channels`.
inline void to_float(ImageView image, int channels, const Normalization& normalization, float* to) {
  const int pixels = image.height * image.width;
  for (int c = 0; c < channels; ++c) {
    const std::uint8_t* const from = image.pixels + (image.channels == 1 ? 0 : c);
    std::array<float, 256> table;
    for (int value = 0; value < 256; ++value)
      table[static_cast<std::size_t>(value)] = normalized(value, c, normalization);
    for (int p = 0; p < pixels; ++p) to[c * pixels + p] = table[from[p * image.channels]];
  }
}

// Mean and standard deviation over all pixels of a data set, in one pass; a grey image counts for every channel.
// Constant channels get the deviation 1.
template <Dataset Images>
[[nodiscard]] Normalization measure_normalization(const Images& images) {
  std::array<std::array<std::uint64_t, 256>, 3> counts{};
  Image scratch;
  for (int i = 0; i < images.size(); ++i) {
    const ImageView image = images.decode(i, scratch);
    const auto channels = static_cast<std::size_t>(image.channels);
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t at = channels == 1 ? 0 : c; at < image.size(); at += channels) ++counts[c][image.pixels[at]];
  }
  Normalization normalization{};
  for (std::size_t c = 0; c < 3; ++c) {
    double count = 0, sum = 0, squares = 0;
    for (std::size_t value = 0; value < 256; ++value) {
      const double share = static_cast<double>(value) / 255, times = static_cast<double>(counts[c][value]);
      count += times;
      sum += times * share;
      squares += times * share * share;
    }
    const double mean = sum / count, variance = squares / count - mean * mean;
    normalization.mean[c] = static_cast<float>(mean);
    normalization.deviation[c] = variance > 1e-12 ? static_cast<float>(std::sqrt(variance)) : 1.0f;
  }
  return normalization;
}

// "mean mean mean deviation deviation deviation", which reads back to the same bits.
[[nodiscard]] inline std::string to_text(const Normalization& n) {
  return fmt::format("{} {} {} {} {} {}", n.mean[0], n.mean[1], n.mean[2], n.deviation[0], n.deviation[1],
                     n.deviation[2]);
}

// The inverse of to_text. Throws Error for anything else, as what `where` holds.
[[nodiscard]] inline Normalization normalization_from(const std::string& text, const std::string& where) {
  Normalization n{};
  char end = 0;
  const int read = std::sscanf(text.c_str(), "%f %f %f %f %f %f%c", &n.mean[0], &n.mean[1], &n.mean[2], &n.deviation[0],
                               &n.deviation[1], &n.deviation[2], &end);
  bool usable = read == 6;
  for (std::size_t c = 0; usable && c < 3; ++c)
    usable = std::isfinite(n.mean[c]) && std::isfinite(n.deviation[c]) && n.deviation[c] > 0;
  if (!usable) fail("{}: '{}' is not a normalization (three means, three positive deviations)", where, text);
  return n;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
