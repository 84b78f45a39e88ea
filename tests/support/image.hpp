// Images for tests.
#pragma once

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

// 1 .. largest pixels a side, often a single row or column; 1 or 3 channels.
inline data::Image random_image(int largest, Random& random) {
  const auto side = [&] {
    return random.below(5) == 0 ? 1 : 1 + static_cast<int>(random.below(static_cast<std::uint32_t>(largest)));
  };
  const int height = side(), width = side();
  return random_image(height, width, random.below(2) == 0 ? 1 : 3, random);
}

}  // namespace tessera::test
