// Images of a data set as pictures of a page. Needs libpng (tessera::programs).
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/resize.hpp"
#include "tessera/programs/page.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// An image for a page: grey, or its first three channels, and so small that its shorter side has at most 112 pixels: a
// page shows 84, on fine screens more.
[[nodiscard]] inline Picture thumbnail(data::ImageView image, std::string caption) {
  constexpr int most = 112;
  const int shorter = smaller(image.height, image.width);
  const auto scaled = [&](int side) { return shorter <= most ? side : static_cast<int>(index{side} * most / shorter); };
  data::ResizeScratch scratch;
  data::Image small;
  data::crop_resize(image, {0, 0, image.height, image.width}, scaled(image.height), scaled(image.width),
                    data::Filter::bilinear, scratch, small);
  const int shown = small.channels >= 3 ? 3 : 1;
  Picture picture{small.height, small.width, shown, {}, std::move(caption)};
  for (std::size_t at = 0; at < small.pixels.size(); at += static_cast<std::size_t>(small.channels))
    for (int c = 0; c < shown; ++c) picture.pixels.push_back(small.pixels[at + static_cast<std::size_t>(c)]);
  return picture;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
