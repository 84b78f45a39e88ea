// What a data set offers.
#pragma once

#include <concepts>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// struct Pictures {
//   int size() const;                                // images
//   ImageView decode(int i, Image& scratch) const;   // image i, in the data set's own memory or in scratch; from any
//                                                    // thread, each with a scratch of its own
//   int label(int i) const;                          // where there are labels: 0, 1, ...
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

// Image i of a data set. Throws Error if views of `channels` channels cannot be made of it.
template <Dataset Images>
[[nodiscard]] ImageView decoded(const Images& images, int i, int channels, Image& scratch) {
  const ImageView image = images.decode(i, scratch);
  if (image.height < 1 || image.width < 1 || (image.channels != 1 && image.channels != channels))
    fail("image {} has {} x {} pixels of {} channel(s): views of {} channel(s) cannot be made of it", i, image.height,
         image.width, image.channels, channels);
  return image;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
