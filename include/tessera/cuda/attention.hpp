// Softmax attention that never keeps a tokens x tokens matrix: in bf16 by matrix instructions, in float by plain
// arithmetic.
#pragma once

#include <type_traits>

#include "tessera/cuda/attention/bf16_backward.hpp"
#include "tessera/cuda/attention/bf16_forward.hpp"
#include "tessera/cuda/attention/float.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int weights_warps = 4;

// A warp to a query; a lane to a key at a time.
template <class Head, class Scalar>
__global__ void attention_weights_kernel(index rows, const Scalar* qkv, float scale, Scalar* weights) {
  constexpr int stride = 3 * Head::width, size = vector_width<Scalar>(Head::dim);
  const index row = static_cast<index>(blockIdx.x) * weights_warps + warp_of_block();
  if (row >= rows) return;
  float* const scores = reinterpret_cast<float*>(shared_memory()) + warp_of_block() * Head::tokens;
  qkv += Head::offset(row / Head::tokens, stride);
  const Scalar* const q = qkv + row % Head::tokens * stride;
  float largest = -infinite, sum = 0;
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size) {
    const Scalar* const k = qkv + key * stride + Head::width;
    float score = 0;
    for (int c = 0; c < Head::dim; c += size) {
      float left[size], right[size];
      load<size>(q + c, left);
      load<size>(k + c, right);
      TESSERA_UNROLL
      for (int i = 0; i < size; ++i) score += left[i] * right[i];
    }
    scores[key] = score * scale;
    largest = fmaxf(largest, scores[key]);
  }
  largest = warp_largest(largest);
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size) {
    scores[key] = expf(scores[key] - largest);
    sum += scores[key];
  }
  const float inverse = 1 / warp_sum(sum);
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size)
    weights[row * Head::tokens + key] = static_cast<Scalar>(scores[key] * inverse);
}

}  // namespace detail

template <int tokens, int heads, class Scalar, int width>
void attention_forward(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out,
                       Rows<Accumulator<Scalar>, tokens> log_sums) {
  const index count = qkv.rows / tokens * heads;
  if constexpr (std::is_same_v<Scalar, bf16>) {
    detail::tiled_forward<detail::TiledHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data);
  } else {
    using Head = detail::PlainHead<tokens, heads, width>;
    launch(backend, dim3(static_cast<unsigned>(count * Head::blocks)), Head::threads, Head::bytes(2),
           detail::plain_forward_kernel<Head>, qkv.data, Head::scale(), out.data, log_sums.data);
  }
}

template <int tokens, int heads, class Scalar, int width>
void attention_backward(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width> out,
                        Rows<const Accumulator<Scalar>, tokens> log_sums, Rows<const Scalar, width> d_out,
                        Rows<Scalar, 3 * width> d_qkv) {
  const index count = qkv.rows / tokens * heads;
  if constexpr (std::is_same_v<Scalar, bf16>)
    detail::tiled_backward<detail::TiledHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data,
                                                                    d_out.data, d_qkv.data);
  else
    detail::plain_backward<detail::PlainHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data,
                                                                    d_out.data, d_qkv.data);
}

template <int tokens, int heads, int width, class Scalar>
void attention_weights(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, tokens> weights) {
  using Head = detail::HeadShape<tokens, heads, width>;
  constexpr int warps = detail::weights_warps;
  launch(backend, blocks_for(weights.rows, warps), warp_size * warps, warps * tokens * index{sizeof(float)},
         detail::attention_weights_kernel<Head, Scalar>, weights.rows, qkv.data, Head::scale(), weights.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
