// Pictures: files whose content says what they are. Needs libjpeg-turbo and libpng (CMake target tessera::image).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/jpeg.hpp"
#include "tessera/data/png.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

[[nodiscard]] inline bool starts_with(std::span<const std::byte> file, std::string_view magic) {
  return file.size() >= magic.size() && std::equal(magic.begin(), magic.end(), file.begin(),
                                                   [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

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

enum class Orientation { upright, as_stored };

// Decodes a JPEG or PNG file, whatever its name says, to grey or RGB pixels: those of Pillow's convert("RGB") to the
// bit, where a grey image has the same value in all channels, and upright, unless the orientation of Exif is ignored.
// With `choose` a JPEG file is decoded at the scale that it names for the picture's full size, turned upright; others
// are not scaled. Throws Error, which starts with `name`, for other files, damaged and truncated ones, and more than
// most_pixels pixels.
inline void decode_picture(std::span<const std::byte> file, std::string_view name, Image& to,
                           Orientation orientation = Orientation::upright, const ScaleChoice& choose = {}) {
  if (detail::starts_with(file, "\xff\xd8\xff")) {
    const auto scale = [&](int height, int width, int stored) {
      const bool turned = orientation == Orientation::upright && stored >= 5;
      return turned ? choose(width, height) : choose(height, width);
    };
    const int stored = decode_jpeg(file, name, to, choose ? JpegScale(scale) : JpegScale());
    if (orientation == Orientation::upright) turn_upright(to, stored);
  } else if (detail::starts_with(file, "\x89PNG\r\n\x1a\n")) {
    decode_png(file, name, to);
  } else {
    fail("{}: is neither a JPEG nor a PNG file", name);
  }
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
