// Fingerprints tell data sets from each other. Need xxHash (tessera::io).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "tessera/core/abi.hpp"
#include "tessera/data/any_dataset.hpp"
#include "tessera/io/hash.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

inline void add_pixels(io::HashOfItems& hash, ImageView image) {
  for (const int extent : {image.height, image.width, image.channels}) hash.add(std::int64_t{extent});
  hash.add(std::as_bytes(std::span(image.pixels, image.size())));
}

}  // namespace detail

// A text of 16 digits. It differs for data sets that differ in the number of images, in their order, or in the name or
// the label of one; for a data set in memory in size or pixels of one, too.
[[nodiscard]] inline std::string fingerprint(const AnyDataset& images) {
  io::HashOfItems hash;
  hash.add(std::int64_t{images.size()});
  hash.add(std::int64_t{images.labelled()});
  Image scratch;
  for (int i = 0; i < images.size(); ++i) {
    hash.add(images.name(i));
    hash.add(std::int64_t{images.label(i)});
    if (images.in_memory()) detail::add_pixels(hash, images.decode(i, scratch));
  }
  return io::hash_text(hash.value());
}

// The same for size and pixels of all images, each of which is decoded.
[[nodiscard]] inline std::string fingerprint_of_contents(const AnyDataset& images) {
  io::HashOfItems hash;
  Image scratch;
  for (int i = 0; i < images.size(); ++i) detail::add_pixels(hash, images.decode(i, scratch));
  return io::hash_text(hash.value());
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
