// The concepts of data sets (docs/writing-a-dataset.md).
#pragma once

#include <concepts>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// A data set of images. Many threads call decode and label at the same time, each with a scratch of its own.
//
// struct Pictures {
//   int size() const;                               // number of images
//   ImageView decode(int i, Image& scratch) const;  // image i, 0 <= i < size(), in memory of the data set or scratch
//   int label(int i) const;                         // of a LabelledDataset: 0, 1, ...
// };
template <class Candidate>
concept Dataset = requires(const Candidate& images, int i, Image& scratch) {
  { images.size() } -> std::convertible_to<int>;
  { images.decode(i, scratch) } -> std::convertible_to<ImageView>;
};

template <class Candidate>
concept LabelledDataset = Dataset<Candidate> && requires(const Candidate& images, int i) {
  { images.label(i) } -> std::convertible_to<int>;
};

// Image i of a data set. Throws Error unless it has pixels and 1 or `channels` channels.
template <Dataset Images>
[[nodiscard]] ImageView decoded(const Images& images, int i, int channels, Image& scratch) {
  const ImageView image = images.decode(i, scratch);
  if (image.height < 1 || image.width < 1 || (image.channels != 1 && image.channels != channels))
    fail(
        "image {} has {} x {} pixels of {} channel(s): views of {} channel(s) cannot be made of it; decode must give "
        "grey images or images of as many channels",
        i, image.height, image.width, image.channels, channels);
  return image;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
