// BMP files in memory.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture_file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

enum class BmpCompression { none = 0, rle8 = 1, rle4 = 2, bit_fields = 3 };

// The facts that the header of a BMP file states.
struct BmpHeader {
  std::int64_t width = 0, height = 0;
  bool top_down = false;  // the first row of the file is the picture's; else its last
  int bits = 0;           // of a pixel: 1, 4 or 8 (indices of the palette), 16, 24 or 32
  BmpCompression compression = BmpCompression::none;
  std::array<std::uint32_t, 3> masks{};                  // of red, green and blue
  std::size_t palette = 0, colors = 0, color_bytes = 0;  // where it starts, its entries, and the bytes of each
  std::size_t raster = 0;                                // where the pixels start

  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>((width * bits + 7) / 8); }
  // Rows start so many bytes apart.
  [[nodiscard]] std::size_t stride() const { return static_cast<std::size_t>((width * bits + 31) / 32 * 4); }
};

// Throws Error, which starts with `name`, unless the header is one that decode_bmp understands.
[[nodiscard]] inline BmpHeader bmp_header(std::span<const std::byte> file, std::string_view name) {
  constexpr std::size_t start = 14, core = 12, mask_bytes = 12;
  constexpr std::array<std::size_t, 7> sizes{core, 40, 52, 56, 64, 108, 124};
  const auto number = [&](std::size_t at, int bytes) { return detail::number(file, at, bytes, std::endian::little); };
  const std::size_t size = number(start, 4);
  if (!starts_with(file, "BM") || std::find(sizes.begin(), sizes.end(), size) == sizes.end())
    fail("{}: is not a BMP file that can be decoded: its header states a size of {} bytes", name, size);
  if (file.size() < start + size) fail("{}: is truncated in its header", name);

  BmpHeader header;
  std::uint32_t compression = 0;
  if (size == core) {
    header.width = number(18, 2);
    header.height = number(20, 2);
    header.bits = static_cast<int>(number(24, 2));
  } else {
    const auto height = static_cast<std::int32_t>(number(22, 4));
    header.width = number(18, 4);
    header.top_down = height < 0;
    header.height = header.top_down ? -std::int64_t{height} : height;
    header.bits = static_cast<int>(number(28, 2));
    compression = number(30, 4);
    header.colors = number(46, 4);
  }
  check_size(name, header.width, header.height);
  const int bits = header.bits;
  const bool palette = bits == 1 || bits == 4 || bits == 8, direct = bits == 16 || bits == 24 || bits == 32;
  const bool known = compression == 0   ? palette || direct
                     : compression == 1 ? bits == 8
                     : compression == 2 ? bits == 4
                                        : compression == 3 && direct;
  if (!known)
    fail("{}: is a BMP file of a kind that is not decoded: compression {} with {} bits", name, compression, bits);
  header.compression = static_cast<BmpCompression>(compression);

  const bool own_masks = header.compression == BmpCompression::bit_fields;
  if (own_masks)
    for (std::size_t c = 0; c < 3; ++c) header.masks[c] = number(54 + 4 * c, 4);
  else if (direct)
    header.masks = bits == 16 ? std::array<std::uint32_t, 3>{0x7c00, 0x3e0, 0x1f}
                              : std::array<std::uint32_t, 3>{0xff0000, 0xff00, 0xff};

  header.palette = start + size;
  header.color_bytes = size == core ? 3 : 4;
  if (palette && header.colors == 0) header.colors = std::size_t{1} << bits;
  if (palette && (header.colors > 256 || header.palette + header.colors * header.color_bytes > file.size()))
    fail("{}: states a palette of {} colours, which it does not hold", name, header.colors);
  // Some programs state where the palette starts, or nothing.
  const std::size_t stated = number(10, 4);
  const std::size_t behind = start + size +
                             (palette                   ? header.colors * header.color_bytes
                              : own_masks && size == 40 ? mask_bytes
                                                        : 0);
  header.raster = stated == 0 || (palette && stated == header.palette) ? behind : stated;
  return header;
}

// The pixels of a BMP file, row by row in the order of the file, as 8-bit RGB.
class BmpPixels {
 public:
  BmpPixels(std::span<const std::byte> file, std::string_view name, const BmpHeader& header)
      : file_(file), name_(name), header_(header) {
    for (std::size_t i = 0; i < header.colors && header.bits <= 8; ++i)
      for (std::size_t c = 0; c < 3; ++c)
        palette_[i][c] = std::to_integer<std::uint8_t>(file[header.palette + i * header.color_bytes + 2 - c]);
  }

  // Throws Error if a file without compression does not hold all pixels.
  void check_raster() const {
    if (packed()) return;
    const std::size_t needed = (static_cast<std::size_t>(header_.height) - 1) * header_.stride() + header_.row_bytes();
    if (header_.raster > file_.size() || file_.size() - header_.raster < needed)
      fail("{}: is truncated: its pixels take {} bytes from byte {}, and it holds {} in all", name_, needed,
           header_.raster, file_.size());
  }

  void decode(Image& to) const {
    if (packed())
      unpack(to);
    else if (header_.bits <= 8)
      copy(to, [&](std::size_t row, std::size_t x, std::uint8_t* pixel) { put(index(row, x), pixel); });
    else if (header_.bits == 16)
      copy_16(to);
    else
      copy_bytes(to);
  }

 private:
  [[nodiscard]] bool packed() const {
    return header_.compression == BmpCompression::rle8 || header_.compression == BmpCompression::rle4;
  }
  [[nodiscard]] std::uint8_t byte(std::size_t at) const { return std::to_integer<std::uint8_t>(file_[at]); }
  [[nodiscard]] std::uint8_t* row(Image& to, std::int64_t y) const {
    return to.row(static_cast<int>(header_.top_down ? y : header_.height - 1 - y));
  }
  void put(std::size_t index, std::uint8_t* pixel) const {
    std::copy(palette_[index].begin(), palette_[index].end(), pixel);
  }

  // Calls pixel(first byte of the row, column, where to write) for all pixels.
  template <class Pixel>
  void copy(Image& to, Pixel pixel) const {
    for (std::int64_t y = 0; y < header_.height; ++y) {
      const std::size_t from = header_.raster + static_cast<std::size_t>(y) * header_.stride();
      std::uint8_t* const start = row(to, y);
      for (std::size_t x = 0; x < static_cast<std::size_t>(header_.width); ++x) pixel(from, x, start + 3 * x);
    }
  }

  // The palette's index in `bits` bits, the first pixel in the highest.
  [[nodiscard]] std::size_t index(std::size_t row, std::size_t x) const {
    const auto bits = static_cast<std::size_t>(header_.bits), bit = x * bits;
    return static_cast<std::size_t>(byte(row + bit / 8) >> (8 - bits - bit % 8)) & ((std::size_t{1} << bits) - 1);
  }

  void copy_16(Image& to) const {
    constexpr std::array<std::uint32_t, 3> five_five_five{0x7c00, 0x3e0, 0x1f}, five_six_five{0xf800, 0x7e0, 0x1f};
    if (header_.masks != five_five_five && header_.masks != five_six_five) fail_masks();
    copy(to, [&](std::size_t row, std::size_t x, std::uint8_t* pixel) {
      const std::uint32_t value = number(file_, row + 2 * x, 2, std::endian::little);
      for (std::size_t c = 0; c < 3; ++c) {
        const std::uint32_t mask = header_.masks[c];
        pixel[c] = static_cast<std::uint8_t>((value & mask) * 255 / mask);
      }
    });
  }

  // 24 or 32 bits: each colour is a byte, and a fourth one, be it alpha, is dropped.
  void copy_bytes(Image& to) const {
    const auto bytes = static_cast<std::size_t>(header_.bits / 8);
    std::array<std::size_t, 3> places{2, 1, 0};
    if (header_.masks != std::array<std::uint32_t, 3>{})  // none are stated for blue, green, red, alpha
      for (std::size_t c = 0; c < 3; ++c) {
        places[c] = static_cast<std::size_t>(std::countr_zero(header_.masks[c]) / 8);
        if (places[c] >= bytes || header_.masks[c] != 0xffu << 8 * places[c]) fail_masks();
      }
    copy(to, [&](std::size_t row, std::size_t x, std::uint8_t* pixel) {
      for (std::size_t c = 0; c < 3; ++c) pixel[c] = byte(row + x * bytes + places[c]);
    });
  }
  [[noreturn]] void fail_masks() const {
    fail("{}: is a BMP file of a kind that is not decoded: {} bits with the masks {:#x}, {:#x}, {:#x}", name_,
         header_.bits, header_.masks[0], header_.masks[1], header_.masks[2]);
  }

  // Run lengths: a count and a value, or 0 and a command. Throws Error unless they fill the picture.
  void unpack(Image& to) const {
    constexpr int end_of_row = 0, end_of_picture = 1, move = 2;
    const bool halves = header_.compression == BmpCompression::rle4;
    const std::int64_t width = header_.width, pixels = width * header_.height;
    std::int64_t done = 0, x = 0;  // pixels, and those of the row, which literal pixels may leave
    const auto add = [&](std::size_t index) {
      put(index, row(to, done / width) + 3 * (done % width));
      ++done;
    };
    std::size_t at = header_.raster;
    while (done < pixels) {
      if (at + 2 > file_.size()) fail_end();
      const int count = byte(at), value = byte(at + 1);
      at += 2;
      const auto half = [](int pair, int i) { return static_cast<std::size_t>(i % 2 == 0 ? pair >> 4 : pair & 15); };
      if (count > 0) {
        for (int i = 0; i < count && x < width && done < pixels; ++i, ++x)
          add(halves ? half(value, i) : static_cast<std::size_t>(value));
      } else if (value == end_of_row) {
        while (done % width != 0) add(0);
        x = 0;
      } else if (value == end_of_picture) {
        fail_end();
      } else if (value == move) {
        if (at + 2 > file_.size()) fail_end();
        const std::int64_t skipped = byte(at) + byte(at + 1) * width;
        at += 2;
        for (std::int64_t i = 0; i < skipped && done < pixels; ++i) add(0);
        x = done % width;
      } else {
        const std::size_t bytes = static_cast<std::size_t>(halves ? (value + 1) / 2 : value);
        for (int i = 0; i < value && done < pixels; ++i) {
          const std::size_t from = at + static_cast<std::size_t>(halves ? i / 2 : i);
          if (from >= file_.size()) fail_end();
          add(halves ? half(byte(from), i) : byte(from));
        }
        x += value;
        at += bytes;
        at += at % 2;  // literal pixels fill pairs of bytes
      }
    }
  }
  [[noreturn]] void fail_end() const {
    fail("{}: is truncated or damaged: its run lengths end before the last pixel", name_);
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  BmpHeader header_;
  std::array<std::array<std::uint8_t, 3>, 256> palette_{};  // black behind its end
};

}  // namespace detail

// Decodes a BMP file to RGB pixels, which are Pillow's to the bit: 1, 4 and 8 bits with a palette, plain or in run
// lengths, 16 bits (5 of each colour, or 6 of green), 24 and 32 bits, whose alpha is dropped; of OS/2 or Windows,
// bottom-up or top-down. Throws Error, which starts with `name`, for other, damaged and truncated files and more than
// most_pixels pixels.
inline void decode_bmp(std::span<const std::byte> file, std::string_view name, Image& to) {
  const detail::BmpHeader header = detail::bmp_header(file, name);
  const detail::BmpPixels pixels(file, name, header);
  pixels.check_raster();
  to.resize(static_cast<int>(header.height), static_cast<int>(header.width), 3);
  pixels.decode(to);
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
