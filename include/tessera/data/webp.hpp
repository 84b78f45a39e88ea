// WebP files in memory, by libwebp. Needs it (CMake target tessera::image, which sets TESSERA_HAS_WEBP=1 if it was
// found).
#pragma once

#include <webp/decode.h>

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

// The data of a WebP file's first chunk of this name, 4 letters; none where there is no complete one.
[[nodiscard]] inline std::span<const std::byte> webp_chunk(std::span<const std::byte> file, std::string_view name) {
  constexpr std::size_t start = 12, head = 8;
  for (std::size_t at = start; at + head <= file.size();) {
    const std::size_t size = number(file, at + 4, 4, std::endian::little);
    if (size > file.size() - at - head) break;
    if (starts_with(file.subspan(at), name)) return file.subspan(at + head, size);
    at += head + size + size % 2;
  }
  return {};
}

[[nodiscard]] inline const char* webp_problem(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
      return "it is truncated";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "not enough memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses what libwebp does not decode";
    default:
      return "it is damaged";
  }
}

}  // namespace detail

// Decodes a WebP file to RGB pixels, which are Pillow's to the bit; alpha is dropped. Returns the orientation of Exif,
// 1 to 8. Throws Error, which starts with `name`, for animations, damaged and truncated files, and more than
// most_pixels pixels.
inline int decode_webp(std::span<const std::byte> file, std::string_view name, Image& to) {
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(file.data());
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) fail("{}: libwebp has another version than its headers", name);
  if (const VP8StatusCode status = WebPGetFeatures(bytes, file.size(), &config.input); status != VP8_STATUS_OK)
    fail("{}: is not a WebP file that can be decoded: {}", name, detail::webp_problem(status));
  if (config.input.has_animation != 0) fail("{}: is an animation; only single pictures are decoded", name);
  detail::check_size(name, config.input.width, config.input.height);
  to.resize(config.input.height, config.input.width, 3);
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = to.pixels.data();
  config.output.u.RGBA.stride = 3 * to.width;
  config.output.u.RGBA.size = to.pixels.size();
  if (const VP8StatusCode status = WebPDecode(bytes, file.size(), &config); status != VP8_STATUS_OK)
    fail("{}: cannot be decoded: {}", name, detail::webp_problem(status));
  return detail::exif_orientation(detail::webp_chunk(file, "EXIF"));
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
