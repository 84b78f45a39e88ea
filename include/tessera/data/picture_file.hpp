// Parts that the readers of picture files share: limits, numbers in bytes, and the orientation in Exif data.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Pictures of more pixels are refused before memory is taken for them; Pillow has the same limit.
inline constexpr std::int64_t most_pixels = 178956970;

namespace detail {

// Throws Error, which starts with `name`, unless a picture of this size is decoded.
inline void check_size(std::string_view name, std::int64_t width, std::int64_t height) {
  if (width < 1 || height < 1) fail("{}: states {} x {} pixels; a picture has at least one", name, width, height);
  if (width > most_pixels / height)
    fail("{}: states {} x {} pixels; at most {} are decoded", name, width, height, most_pixels);
}

[[nodiscard]] inline bool starts_with(std::span<const std::byte> file, std::string_view magic) {
  return file.size() >= magic.size() && std::equal(magic.begin(), magic.end(), file.begin(),
                                                   [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

// The number in `count` bytes from byte `at`, 1 <= count <= 4. Bytes behind the end count as 0.
[[nodiscard]] inline std::uint32_t number(std::span<const std::byte> bytes, std::size_t at, int count,
                                          std::endian order) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i) {
    const std::size_t byte = at + static_cast<std::size_t>(order == std::endian::little ? count - 1 - i : i);
    value = value << 8 | (byte < bytes.size() ? std::to_integer<std::uint32_t>(bytes[byte]) : 0u);
  }
  return value;
}

// The bytes that precede Exif data in JPEG files, and in WebP files of some programs.
inline constexpr std::string_view exif_start("Exif\0\0", 6);

// The orientation in Exif data, 1 to 8; 1 where there is none.
[[nodiscard]] inline int exif_orientation(std::span<const std::byte> exif) {
  constexpr std::string_view little("II*\0", 4), big("MM\0*", 4);
  constexpr std::size_t entry_size = 12;
  constexpr std::uint32_t orientation = 0x112, type_short = 3;
  if (starts_with(exif, exif_start)) exif = exif.subspan(exif_start.size());
  if (!starts_with(exif, little) && !starts_with(exif, big)) return 1;
  const std::endian order = starts_with(exif, little) ? std::endian::little : std::endian::big;
  const std::size_t directory = number(exif, 4, 4, order), entries = number(exif, directory, 2, order);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * entry_size;
    if (entry + entry_size > exif.size()) return 1;
    if (number(exif, entry, 2, order) != orientation || number(exif, entry + 2, 2, order) != type_short) continue;
    const std::uint32_t value = number(exif, entry + 8, 2, order);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace detail

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
