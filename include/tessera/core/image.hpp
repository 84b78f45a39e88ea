// The size of images, as a type.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Square input images: `size` pixels a side, planar.
template <int size_, int channels_ = 3>
struct image {
  static constexpr int size = size_, channels = channels_, values = channels * size * size;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
