// Normalisation: from 8-bit pixels to the floats that enter a network (docs/method.md, 3.6).
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

// Mean and standard deviation of each channel, for values in 0 .. 1. A network with 1 channel uses the first.
struct Normalization {
  std::array<float, 3> mean, deviation;
};
inline constexpr Normalization imagenet_normalization{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

// (value / 255 - mean) / deviation, for an 8-bit value of a channel.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr float normalized(int value, int channel, const Normalization& by) {
  const auto at = static_cast<std::size_t>(channel);
  return (static_cast<float>(value) / 255.0f - by.mean[at]) / by.deviation[at];
}

// Assigns to `to` (channels x height x width) the normalised image. The image has `channels` channels or is grey; a
// grey image fills all of them.
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

// Mean and standard deviation of each channel over all pixels of a data set, decoded once; a grey image counts for
// every channel. A constant channel gets the deviation 1.
template <Dataset Images>
[[nodiscard]] Normalization measure_normalization(const Images& images) {
  if (images.size() == 0) fail("the data set has no image to measure a normalization on");
  std::array<std::array<std::uint64_t, 256>, 3> counts{};
  Image scratch;
  for (int i = 0; i < images.size(); ++i) {
    const ImageView image = decoded(images, i, 3, scratch);
    const auto channels = static_cast<std::size_t>(image.channels);
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t at = channels == 1 ? 0 : c; at < image.size(); at += channels) ++counts[c][image.pixels[at]];
  }
  Normalization normalization{};
  for (std::size_t c = 0; c < 3; ++c) {
    double count = 0, sum = 0, squares = 0;
    for (std::size_t value = 0; value < 256; ++value) {
      const double level = static_cast<double>(value) / 255, times = static_cast<double>(counts[c][value]);
      count += times;
      sum += times * level;
      squares += times * level * level;
    }
    const double mean = sum / count, variance = squares / count - mean * mean;
    normalization.mean[c] = static_cast<float>(mean);
    normalization.deviation[c] = variance > 1e-12 ? static_cast<float>(std::sqrt(variance)) : 1.0f;
  }
  return normalization;
}

// The text "mean mean mean deviation deviation deviation", from which normalization_from reads the same bits.
[[nodiscard]] inline std::string to_text(const Normalization& n) {
  return fmt::format("{} {} {} {} {} {}", n.mean[0], n.mean[1], n.mean[2], n.deviation[0], n.deviation[1],
                     n.deviation[2]);
}

// The inverse of to_text. Throws Error for any other text; `where` names its source in the message, as a path.
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
