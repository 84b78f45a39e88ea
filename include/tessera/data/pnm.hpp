// PBM, PGM and PPM files in memory.
#pragma once

#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture_file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// Reads the text of a file from start to end, without its comments: these start with '#' and end with the line.
class PnmText {
 public:
  static constexpr int end = -1;

  PnmText(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  // The bytes that were not read.
  [[nodiscard]] std::span<const std::byte> left() const { return file_.subspan(at_); }

  [[nodiscard]] static bool is_space(int byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

  // The next byte that is no white space, or `end`.
  [[nodiscard]] int visible() {
    int byte = next();
    while (is_space(byte)) byte = next();
    return byte;
  }

  // Reads a decimal number, and one byte of white space behind it. Throws Error unless it is in 0 .. `most`.
  [[nodiscard]] int number(int most) {
    int byte = visible();
    std::int64_t value = byte >= '0' && byte <= '9' ? 0 : -1;
    for (; byte >= '0' && byte <= '9' && value <= most; byte = next()) value = 10 * value + byte - '0';
    if (value > most) fail("{}: holds a number above {} where at most that is allowed", name_, most);
    if (value < 0 || (byte != end && !is_space(byte)))
      fail("{}: is truncated or damaged: it has no number where one belongs, before byte {}", name_, at_);
    return static_cast<int>(value);
  }

 private:
  [[nodiscard]] int next() {
    while (at_ < file_.size()) {
      const int byte = std::to_integer<int>(file_[at_++]);
      if (byte != '#') return byte;
      while (at_ < file_.size() && file_[at_] != std::byte{'\n'} && file_[at_] != std::byte{'\r'}) ++at_;
      if (at_ < file_.size()) ++at_;
    }
    return end;
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  std::size_t at_ = 0;
};

// The 8-bit levels of the values 0 .. most, which Pillow rounds so; of 16-bit grey the high byte.
[[nodiscard]] inline std::vector<std::uint8_t> pnm_levels(int most, bool grey) {
  const int highest = grey && most > 255 ? 65535 : 255;
  std::vector<std::uint8_t> levels;
  for (int value = 0; value <= most; ++value) {
    const int level = static_cast<int>(std::nearbyint(static_cast<double>(value) / most * highest));
    levels.push_back(static_cast<std::uint8_t>(highest == 255 ? level : level >> 8));
  }
  return levels;
}

// True if the file starts with P1 .. P6 and white space.
[[nodiscard]] inline bool is_pnm(std::span<const std::byte> file) {
  return file.size() > 2 && file[0] == std::byte{'P'} && file[1] >= std::byte{'1'} && file[1] <= std::byte{'6'} &&
         PnmText::is_space(std::to_integer<int>(file[2]));
}

}  // namespace detail

// Decodes a PBM, PGM or PPM file, P1 to P6, to grey or RGB pixels, which are Pillow's to the bit, but for grey of more
// than 8 bits: of 16 bits the high byte is taken. Throws Error, which starts with `name`, for other, damaged and
// truncated files and more than most_pixels pixels.
inline void decode_pnm(std::span<const std::byte> file, std::string_view name, Image& to) {
  if (!detail::is_pnm(file)) fail("{}: is not a PBM, PGM or PPM file", name);
  const int kind = std::to_integer<int>(file[1]) - '0';
  const bool plain = kind <= 3, bits = kind % 3 == 1, grey = kind % 3 != 0;
  detail::PnmText text(file, name);
  static_cast<void>(text.visible());  // P
  static_cast<void>(text.visible());  // the digit
  const int width = text.number(INT_MAX), height = text.number(INT_MAX);
  detail::check_size(name, width, height);
  const int most = bits ? 1 : text.number(65535);
  if (most == 0) fail("{}: states the largest value 0; it must lie between 1 and 65535", name);

  const std::size_t row_values = static_cast<std::size_t>(width) * (grey ? 1 : 3);
  const std::size_t values = row_values * static_cast<std::size_t>(height);
  const std::size_t needed = plain  ? (bits ? values : 2 * values - 1)
                             : bits ? (row_values + 7) / 8 * static_cast<std::size_t>(height)
                                    : values * (most > 255 ? 2 : 1);
  if (text.left().size() < needed)
    fail("{}: is truncated: {} bytes follow its header, and its pixels take {}", name, text.left().size(), needed);
  to.resize(height, width, grey ? 1 : 3);

  if (plain && bits) {
    for (std::uint8_t& pixel : to.pixels) {
      const int digit = text.visible();
      if (digit != '0' && digit != '1') fail("{}: is truncated or damaged: a pixel is neither 0 nor 1", name);
      pixel = digit == '0' ? 255 : 0;
    }
  } else if (bits) {
    const std::span<const std::byte> from = text.left();
    for (std::size_t i = 0; i < values; ++i) {
      const std::size_t x = i % row_values, byte = i / row_values * ((row_values + 7) / 8) + x / 8;
      to.pixels[i] = (from[byte] >> (7 - x % 8) & std::byte{1}) == std::byte{0} ? 255 : 0;
    }
  } else {
    const std::vector<std::uint8_t> levels = detail::pnm_levels(most, grey);
    const std::span<const std::byte> from = text.left();
    const int bytes = most > 255 ? 2 : 1;
    for (std::size_t i = 0; i < values; ++i) {
      const auto stored = plain ? static_cast<std::uint32_t>(text.number(most))
                                : detail::number(from, i * static_cast<std::size_t>(bytes), bytes, std::endian::big);
      to.pixels[i] = stored < levels.size() ? levels[stored] : 255;
    }
  }
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
