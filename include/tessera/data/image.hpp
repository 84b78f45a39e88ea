// 8-bit images (height x width x channels, row-major): grey (1 channel), red, green and blue (3), or of other channels.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

inline constexpr int most_channels = 16;  // of an image

// A reference to the pixels of an image (height x width x channels), which others own.
struct ImageView {
  const std::uint8_t* pixels = nullptr;
  int height = 0, width = 0, channels = 0;

  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(height * width * channels); }
  [[nodiscard]] const std::uint8_t* row(int y) const { return pixels + y * width * channels; }
};

// An image that owns its pixels. resize() keeps the memory for smaller images.
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

namespace detail {

inline constexpr int largest_piece = 64;

// Calls function(first, size) for pieces that cover [0, count); the last two may overlap. size is a compile-time
// constant, so that loops over it become vector code, unless count < 16.
template <class Function>
[[gnu::always_inline]] inline void in_pieces(int count, Function function) {
  constexpr std::integral_constant<int, largest_piece> large;
  constexpr std::integral_constant<int, 32> medium;
  constexpr std::integral_constant<int, 16> small;
  int first = 0;
  for (; first + large <= count; first += large) function(first, large);
  for (; first + medium <= count; first += medium) function(first, medium);
  for (; first + small <= count; first += small) function(first, small);
  if (first == count) return;
  if (count > small)
    function(count - small, small);
  else
    function(0, count);
}

template <int channels>
void transpose_pixels(int rows, int columns, const std::uint8_t* from, int stride, std::uint8_t* to) {
  constexpr int block = 16;
  for (int r0 = 0; r0 < rows; r0 += block)
    for (int c0 = 0; c0 < columns; c0 += block)
      for (int r = r0; r < rows && r < r0 + block; ++r)
        for (int c = c0; c < columns && c < c0 + block; ++c)
          for (int k = 0; k < channels; ++k) to[(c * rows + r) * channels + k] = from[r * stride + c * channels + k];
}

// Transposes rows x columns pixels to columns x rows. The rows of `from` start `stride` bytes apart.
inline void transpose(int rows, int columns, int channels, const std::uint8_t* from, int stride, std::uint8_t* to) {
  constexpr auto transposes = []<int... less>(std::integer_sequence<int, less...>) {
    return std::array{transpose_pixels<less + 1>...};
  }
  (std::make_integer_sequence<int, most_channels>{});
  transposes[static_cast<std::size_t>(channels - 1)](rows, columns, from, stride, to);
}

inline constexpr int block_side = 16;

// Transposes 16 x 16 bytes, whose rows start from_stride and to_stride bytes apart. A perfect shuffle turns the eight
// bits of a byte's position by one place; four of them exchange row and column.
inline void transpose_block(const std::uint8_t* from, int from_stride, std::uint8_t* to, int to_stride) {
  constexpr int half = block_side * block_side / 2;
  std::uint8_t block[2 * half], shuffled[2 * half];
  const auto shuffle = [](const std::uint8_t(&x)[2 * half], std::uint8_t(&y)[2 * half]) {
    for (int i = 0; i < half; ++i) {
      y[2 * i] = x[i];
      y[2 * i + 1] = x[half + i];
    }
  };
  for (int r = 0; r < block_side; ++r) std::copy_n(from + r * from_stride, block_side, block + r * block_side);
  shuffle(block, shuffled);
  shuffle(shuffled, block);
  shuffle(block, shuffled);
  shuffle(shuffled, block);
  for (int r = 0; r < block_side; ++r) std::copy_n(block + r * block_side, block_side, to + r * to_stride);
}

// Transposes rows x columns bytes to columns x rows, whose rows start from_stride and to_stride bytes apart.
inline void transpose_bytes(int rows, int columns, const std::uint8_t* from, int from_stride, std::uint8_t* to,
                            int to_stride) {
  if (rows < block_side || columns < block_side) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
    return;
  }
  for (int r = 0; r < rows; r += block_side)
    for (int c = 0; c < columns; c += block_side) {
      const int row = smaller(r, rows - block_side), column = smaller(c, columns - block_side);
      transpose_block(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
    }
}

inline constexpr int strip_rows = 32;

// Calls function(first, count) for strips of strip_rows rows that cover [0, rows), the last two of which may overlap,
// or for one strip of fewer rows.
template <class Function>
void for_strips(int rows, Function function) {
  if (rows < strip_rows) return function(0, rows);
  for (int first = 0; first < rows; first += strip_rows) function(smaller(first, rows - strip_rows), strip_rows);
}

}  // namespace detail

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
