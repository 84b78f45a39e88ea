// Some images of a data set that stand for all of them.
#pragma once

#include <cstdint>

#include "tessera/core/abi.hpp"
#include "tessera/data/dataset.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// At most `most` images of a data set, evenly spaced from its first on. Folders of pictures are sorted by class, so
// that the first images would be those of the first classes.
template <Dataset Images>
class Spread {
 public:
  // The data set must outlive it. A negative `most` takes all images.
  Spread(const Images& images, int most)
      : images_(images), size_(most < 0 || most > images.size() ? images.size() : most) {}

  [[nodiscard]] int size() const { return size_; }
  // The number of image i in the data set.
  [[nodiscard]] int number(int i) const {
    return static_cast<int>(static_cast<std::int64_t>(i) * images_.size() / size_);
  }
  [[nodiscard]] ImageView decode(int i, Image& scratch) const { return images_.decode(number(i), scratch); }
  [[nodiscard]] int label(int i) const requires LabelledDataset<Images> { return images_.label(number(i)); }

 private:
  const Images& images_;
  int size_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
