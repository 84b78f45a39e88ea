// The shape of a head, and its place in the operands of attention.
#pragma once

#include <cmath>
#include <limits>

#include "tessera/core/index.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::detail {

inline constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f, infinite = std::numeric_limits<float>::infinity();

// The attention of one head of one image, whose operands are columns of matrices with images*tokens rows.
template <int tokens_, int heads_, int width_>
struct HeadShape {
  static constexpr int tokens = tokens_, heads = heads_, width = width_, dim = width / heads;

  // The offset of head number `head`, counted over all images, in a matrix of `columns` columns.
  TESSERA_HOST_DEVICE static index offset(index head, int columns) {
    return head / heads * tokens * columns + head % heads * dim;
  }
  static float scale() { return static_cast<float>(1 / std::sqrt(static_cast<double>(dim))); }
};

}  // namespace cuda::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
