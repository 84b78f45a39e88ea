// Branches of a block, scaled image by image.
#pragma once

#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int branch_threads = 256;

// A vector to a thread. residual is null where it is absent.
template <int tokens, int width, class Scalar>
__global__ void __launch_bounds__(branch_threads)
    scale_branch_kernel(index rows, const Scalar* branch, const float* scales, const Scalar* residual, Scalar* y) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each;
  const index at = static_cast<index>(blockIdx.x) * branch_threads + threadIdx.x, row = at / vectors;
  if (row >= rows) return;
  const float scale = scales[row / tokens];
  float values[each], sums[each] = {};
  load<each>(branch + at * each, values);
  if (residual != nullptr) load<each>(residual + at * each, sums);
  TESSERA_UNROLL
  for (int i = 0; i < each; ++i) sums[i] += scale * values[i];
  store<each>(y + at * each, sums);
}

}  // namespace detail

template <int tokens, class Scalar, int width>
void scale_branch(Backend<Scalar>& backend, Rows<const Scalar, width> branch, const float* scales,
                  Rows<const Scalar, width> residual, Rows<Scalar, width> y) {
  launch(backend, blocks_for(y.rows * (width / vector_width<Scalar>(width)), detail::branch_threads),
         detail::branch_threads, 0, detail::scale_branch_kernel<tokens, width, Scalar>, y.rows, branch.data, scales,
         residual.data, y.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
