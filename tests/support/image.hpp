// Images for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "tessera/core/random.hpp"
#include "tessera/data/image.hpp"

namespace tessera::test {

inline data::Image image_of(int height, int width, int channels, std::vector<std::uint8_t> pixels) {
  return {height, width, channels, std::move(pixels)};
}

inline data::Image row_of(std::vector<std::uint8_t> values) {
  const int width = static_cast<int>(values.size());
  return image_of(1, width, 1, std::move(values));
}

inline data::Image random_image(int height, int width, int channels, Random& random) {
  data::Image image;
  image.resize(height, width, channels);
  for (std::uint8_t& value : image.pixels) value = static_cast<std::uint8_t>(random.below(256));
  return image;
}

// Channel c as a grey image.
inline data::Image channel_of(const data::Image& image, int c) {
  data::Image channel;
  channel.resize(image.height, image.width, 1);
  for (std::size_t at = 0; at < channel.pixels.size(); ++at)
    channel.pixels[at] = image.pixels[at * static_cast<std::size_t>(image.channels) + static_cast<std::size_t>(c)];
  return channel;
}

// 1 .. largest pixels a side, often a single row or column; 1 or 3 channels.
inline data::Image random_image(int largest, Random& random) {
  const auto side = [&] {
    return random.below(5) == 0 ? 1 : 1 + static_cast<int>(random.below(static_cast<std::uint32_t>(largest)));
  };
  const int height = side(), width = side();
  return random_image(height, width, random.below(2) == 0 ? 1 : 3, random);
}

}  // namespace tessera::test
