// Parts that the fuzz targets of pictures share.
#pragma once

#include "input.hpp"
#include "tessera/data/image.hpp"

namespace tessera::fuzz {

// Larger pictures take so long that few inputs would be tried.
inline constexpr std::int64_t most_pixels = 1 << 18;

// A picture that decodes has all its pixels, grey or RGB, and the same ones in an image that had others before.
template <class Decode>
void decode_twice(Decode&& decode) {
  accept_refusals([&] {
    data::Image first, second;
    decode(first);
    require(first.height > 0 && first.width > 0 && (first.channels == 1 || first.channels == 3),
            "a picture has rows and columns, and 1 or 3 channels");
    require(first.pixels.size() == data::ImageView(first).size(), "a picture has all its pixels");
    second.pixels.assign(first.pixels.size(), 0x5a);
    decode(second);
    require(first.pixels == second.pixels, "a picture depends on its file alone");
  });
}

}  // namespace tessera::fuzz
