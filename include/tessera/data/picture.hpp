// Pictures: files whose content says what they are. Needs libjpeg-turbo and libpng, and for WebP and TIFF libwebp and
// libtiff (CMake target tessera::image, which sets TESSERA_HAS_WEBP=1 and TESSERA_HAS_TIFF=1 where they were found).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/bmp.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/jpeg.hpp"
#include "tessera/data/picture_file.hpp"
#include "tessera/data/png.hpp"
#include "tessera/data/pnm.hpp"
#if TESSERA_HAS_WEBP
#include "tessera/data/webp.hpp"
#endif
#if TESSERA_HAS_TIFF
#include "tessera/data/tiff.hpp"
#endif

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The endings of the names of picture files, in small letters. decode_picture decodes all of these but WebP and TIFF in
// a build without their libraries, and says so then.
inline constexpr std::array<std::string_view, 11> picture_endings{".jpg", ".jpeg", ".png",  ".bmp", ".ppm", ".pgm",
                                                                  ".pbm", ".pnm",  ".webp", ".tif", ".tiff"};

namespace detail {

inline void mirror(Image& image) {
  for (int y = 0; y < image.height; ++y)
    for (int left = 0, right = image.width - 1; left < right; ++left, --right)
      std::swap_ranges(image.row(y) + left * image.channels, image.row(y) + (left + 1) * image.channels,
                       image.row(y) + right * image.channels);
}
inline void flip(Image& image) {
  for (int top = 0, bottom = image.height - 1; top < bottom; ++top, --bottom)
    std::swap_ranges(image.row(top), image.row(top) + image.width * image.channels, image.row(bottom));
}

}  // namespace detail

// Turns an image upright. orientation is Exif's: 2 mirrored, 3 upside down, 4 flipped, 5 transposed, 6 to be turned by
// 90 degrees clockwise, 7 transposed at the other diagonal, 8 to be turned anticlockwise; others are upright.
inline void turn_upright(Image& image, int orientation) {
  if (orientation >= 5 && orientation <= 8) {
    Image transposed;
    transposed.resize(image.width, image.height, image.channels);
    detail::transpose(image.height, image.width, image.channels, image.pixels.data(), image.width * image.channels,
                      transposed.pixels.data());
    image = std::move(transposed);
  }
  if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) detail::mirror(image);
  if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) detail::flip(image);
}

namespace detail {

[[nodiscard]] inline bool is_webp(std::span<const std::byte> file) {
  return starts_with(file, "RIFF") && file.size() > 8 && starts_with(file.subspan(8), "WEBP");
}
// TIFF or BigTIFF, of either byte order.
[[nodiscard]] inline bool is_tiff(std::span<const std::byte> file) {
  using namespace std::string_view_literals;
  for (const std::string_view magic : {"II*\0"sv, "MM\0*"sv, "II+\0"sv, "MM\0+"sv})
    if (starts_with(file, magic)) return true;
  return false;
}

// Decodes a WebP or a TIFF file, or throws Error if this build has no library for it. Returns the orientation.
inline int decode_webp_if_built(std::span<const std::byte> file, std::string_view name, Image& to) {
#if TESSERA_HAS_WEBP
  return decode_webp(file, name, to);
#else
  static_cast<void>(file), static_cast<void>(to);
  fail("{}: is a WebP file, and this program was built without libwebp; install it and build again", name);
#endif
}
inline int decode_tiff_if_built(std::span<const std::byte> file, std::string_view name, Image& to) {
#if TESSERA_HAS_TIFF
  return decode_tiff(file, name, to);
#else
  static_cast<void>(file), static_cast<void>(to);
  fail("{}: is a TIFF file, and this program was built without libtiff 4.5; install it and build again", name);
#endif
}

}  // namespace detail

enum class Orientation { upright, as_stored };

// Decodes a JPEG, PNG, BMP, PBM, PGM, PPM, WebP or TIFF file, whatever its name says, to grey or RGB pixels: those of
// Pillow's convert("RGB") to the bit, where a grey image has the same value in all channels, and upright, unless the
// orientation of Exif is ignored; that of TIFF is a part of the format, and never is, as in Pillow. With `choose` a
// JPEG file is decoded at the scale that it names for the picture's full size, turned upright; others are not scaled.
// Throws Error, which starts with `name`, for other files, damaged and truncated ones, and more than most_pixels
// pixels.
inline void decode_picture(std::span<const std::byte> file, std::string_view name, Image& to,
                           Orientation orientation = Orientation::upright, const ScaleChoice& choose = {}) {
  const auto scale = [&](int height, int width, int stored) {
    const bool turned = orientation == Orientation::upright && stored >= 5;
    return turned ? choose(width, height) : choose(height, width);
  };
  int stored = 1;
  if (detail::starts_with(file, "\xff\xd8\xff"))
    stored = decode_jpeg(file, name, to, choose ? JpegScale(scale) : JpegScale());
  else if (detail::starts_with(file, "\x89PNG\r\n\x1a\n"))
    stored = decode_png(file, name, to);
  else if (detail::starts_with(file, "BM"))
    decode_bmp(file, name, to);
  else if (detail::is_pnm(file))
    decode_pnm(file, name, to);
  else if (detail::is_webp(file))
    stored = detail::decode_webp_if_built(file, name, to);
  else if (detail::is_tiff(file))
    turn_upright(to, detail::decode_tiff_if_built(file, name, to));
  else
    fail("{}: is no JPEG, PNG, BMP, PBM, PGM, PPM, WebP or TIFF file", name);
  if (orientation == Orientation::upright) turn_upright(to, stored);
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
