// 8-bit images, rows of interleaved channels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tessera/core/abi.hpp"

namespace tessera::inline TESSERA_ABI::data {

// Somebody else's pixels: height x width x channels.
struct ImageView {
  const std::uint8_t* pixels = nullptr;
  int height = 0, width = 0, channels = 0;

  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(height * width * channels); }
  [[nodiscard]] const std::uint8_t* row(int y) const { return pixels + y * width * channels; }
};

// Own pixels. Assigning a smaller image keeps the memory.
struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;

  void resize(int new_height, int new_width, int new_channels) {
    height = new_height;
    width = new_width;
    channels = new_channels;
    pixels.resize(static_cast<std::size_t>(height * width * channels));
  }
  [[nodiscard]] std::uint8_t* row(int y) { return pixels.data() + y * width * channels; }
  [[nodiscard]] operator ImageView() const { return {pixels.data(), height, width, channels}; }
};

}  // namespace tessera::inline TESSERA_ABI::data
