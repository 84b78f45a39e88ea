// Branches of a block, scaled image by image.
#pragma once

#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <int tokens, class Scalar, class Matmul, int width>
void scale_branch(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> branch, const Accumulator<Scalar>* scales,
                  Rows<const Scalar, width> residual, Rows<Scalar, width> y) {
  for_rows(backend, y.rows, width, [&](index row) {
    const Accumulator<Scalar> scale = scales[row / tokens];
    if (residual.wanted())
      simd::transform(
          index{width}, y.row(row), [scale](auto a, auto b) { return a + scale * b; }, residual.row(row),
          branch.row(row));
    else
      simd::transform(
          index{width}, y.row(row), [scale](auto b) { return scale * b; }, branch.row(row));
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
