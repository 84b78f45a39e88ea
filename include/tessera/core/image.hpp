// The size of an image as a type.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Square planar images, channels x size x size pixels.
template <int size_, int channels_ = 3>
struct image {
  static constexpr int size = size_, channels = channels_, values = channels * size * size;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
