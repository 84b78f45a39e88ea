// Normalisation: from 8-bit pixels to the floats that enter a network (docs/method.md, 3.6).
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/thread_pool.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Mean and standard deviation of each channel, for values in 0 .. 1. A network of fewer channels uses the first.
struct Normalization {
  std::array<float, most_channels> mean, deviation;
  int channels = 3;  // that have a mean and a deviation: 3, or as many as images have if they are more
};
inline constexpr Normalization imagenet_normalization{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

// Throws Error unless the normalization has positive deviations, and those of `channels` channels.
inline void check_normalization(const Normalization& normalization, int channels) {
  if (normalization.channels < larger(3, channels) || normalization.channels > most_channels)
    fail(
        "the normalization has {} channels, but images of {} are normalised: give one with that many means, deviations "
        "and normalization.channels, at least 3; measure_normalization() measures one on a data set",
        normalization.channels, channels);
  for (std::size_t c = 0; c < static_cast<std::size_t>(normalization.channels); ++c)
    if (!(normalization.deviation[c] > 0))
      fail("normalization.deviation must be positive, not {}", normalization.deviation[c]);
}

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

namespace detail {

// The number of times that each value occurs in each channel.
class PixelCounts {
 public:
  // Counts image i, which must be grey or have as many channels as those before that are not.
  void add(ImageView image, int i) {
    if (channels_ == 1) channels_ = smaller(larger(image.channels, 1), most_channels);
    check_pixels(image, i, channels_);
    const auto step = static_cast<std::size_t>(image.channels);
    for (std::size_t c = 0; c < step; ++c) {
      Counts& of = step == 1 ? grey_ : counts_[c];
      for (std::size_t at = c; at < image.size(); at += step) ++of[image.pixels[at]];
    }
  }
  void add(const PixelCounts& other) {
    if (channels_ > 1 && other.channels_ > 1 && channels_ != other.channels_)
      fail("some images have {} channels and some {}; all must be alike, or grey", channels_, other.channels_);
    channels_ = larger(channels_, other.channels_);
    for (std::size_t value = 0; value < 256; ++value) {
      grey_[value] += other.grey_[value];
      for (std::size_t c = 0; c < most_channels; ++c) counts_[c][value] += other.counts_[c][value];
    }
  }

  [[nodiscard]] Normalization normalization() const {
    Normalization normalization{};
    normalization.channels = larger(3, channels_);
    for (std::size_t c = 0; c < static_cast<std::size_t>(normalization.channels); ++c) {
      double count = 0, sum = 0, squares = 0;
      for (std::size_t value = 0; value < 256; ++value) {
        const double level = static_cast<double>(value) / 255,
                     times = static_cast<double>(counts_[c][value] + grey_[value]);
        count += times;
        sum += times * level;
        squares += times * level * level;
      }
      const double mean = count > 0 ? sum / count : 0, variance = count > 0 ? squares / count - mean * mean : 0;
      normalization.mean[c] = static_cast<float>(mean);
      normalization.deviation[c] = variance > 1e-12 ? static_cast<float>(std::sqrt(variance)) : 1.0f;
    }
    return normalization;
  }

 private:
  using Counts = std::array<std::uint64_t, 256>;
  std::array<Counts, most_channels> counts_{};
  Counts grey_{};
  int channels_ = 1;
};

}  // namespace detail

// Mean and standard deviation of each channel over all pixels of a data set, decoded once. Images have the number of
// channels of the first that is not grey; a grey image counts for every channel. A constant channel gets the deviation
// 1, and channels that no image has, up to 3, the mean 0 and the deviation 1. Any number of threads gives the same
// bits; 0 takes every processor. Calls tell(images done) from time to time, from one thread at a time.
template <Dataset Images, class Tell>
[[nodiscard]] Normalization measure_normalization(const Images& images, int threads, Tell&& tell) {
  if (images.size() == 0) fail("the data set has no image to measure a normalization on");
  ThreadPool pool(threads);
  std::vector<detail::PixelCounts> counts(static_cast<std::size_t>(pool.threads()));
  int done = 0;
  std::mutex mutex;
  pool.for_pieces(images.size(), 16, [&](index first, index last, int worker) {
    Image scratch;
    for (index i = first; i < last; ++i)
      counts[static_cast<std::size_t>(worker)].add(images.decode(static_cast<int>(i), scratch), static_cast<int>(i));
    const std::lock_guard lock(mutex);
    done += static_cast<int>(last - first);
    tell(done);
  });
  for (std::size_t worker = 1; worker < counts.size(); ++worker) counts[0].add(counts[worker]);
  return counts[0].normalization();
}
template <Dataset Images>
[[nodiscard]] Normalization measure_normalization(const Images& images) {
  return measure_normalization(images, 1, [](int) {});
}

// The text "mean mean mean deviation deviation deviation", from which normalization_from reads the same bits; of more
// than 3 channels all means, then all deviations.
[[nodiscard]] inline std::string to_text(const Normalization& n) {
  const auto text = [&](const std::array<float, most_channels>& values) {
    return fmt::format("{}", fmt::join(values.begin(), values.begin() + n.channels, " "));
  };
  return text(n.mean) + " " + text(n.deviation);
}

// The inverse of to_text. Throws Error for any other text; `where` names its source in the message, as a path.
[[nodiscard]] inline Normalization normalization_from(const std::string& text, const std::string& where) {
  std::array<float, 2 * most_channels> values{};
  std::size_t count = 0;
  const char* rest = text.c_str();
  for (int length = 0; count < values.size() && std::sscanf(rest, "%f%n", &values[count], &length) == 1; ++count)
    rest += length;
  Normalization n{};
  n.channels = static_cast<int>(count / 2);
  bool usable = *rest == '\0' && count % 2 == 0 && n.channels >= 3;
  for (std::size_t c = 0; usable && c < count / 2; ++c) {
    n.mean[c] = values[c];
    n.deviation[c] = values[count / 2 + c];
    usable = std::isfinite(n.mean[c]) && std::isfinite(n.deviation[c]) && n.deviation[c] > 0;
  }
  if (!usable)
    fail("{}: '{}' is not a normalization (3 to {} means, as many positive deviations)", where, text, most_channels);
  return n;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
