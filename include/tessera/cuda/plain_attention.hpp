// Attention by its definition: batched matrix products and a softmax over weights that are kept. What the fused kernels
// are compared with, in time, memory and results.
#pragma once

#include <cmath>

#include "tessera/core/context.hpp"
#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

// Where value `at` of matrices (images*heads*tokens x dim), one head after the other, is in the columns from `first` on
// of a matrix (images*tokens x columns) that has heads side by side.
template <int tokens, int heads, int dim>
TESSERA_HOST_DEVICE constexpr index interleaved(index at, int columns, int first) {
  const index row = at / dim, head = row / tokens, token = row % tokens;
  return (head / heads * tokens + token) * columns + first + head % heads * dim + at % dim;
}

// Head by head from side by side, `size` values to a thread.
template <int tokens, int heads, int dim, int size, class Scalar>
__global__ void split_heads_kernel(index count, const Scalar* from, int columns, int first, Scalar* to) {
  const index at = (static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x) * size;
  if (at >= count) return;
  *reinterpret_cast<Vector<Scalar, size>*>(to + at) =
      *reinterpret_cast<const Vector<Scalar, size>*>(from + interleaved<tokens, heads, dim>(at, columns, first));
}

// The other way.
template <int tokens, int heads, int dim, int size, class Scalar>
__global__ void merge_heads_kernel(index count, const Scalar* from, int columns, int first, Scalar* to) {
  const index at = (static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x) * size;
  if (at >= count) return;
  *reinterpret_cast<Vector<Scalar, size>*>(to + interleaved<tokens, heads, dim>(at, columns, first)) =
      *reinterpret_cast<const Vector<Scalar, size>*>(from + at);
}

inline constexpr int softmax_warps = 4;

// weights = softmax of scores, a warp to a row.
template <int tokens, class Scalar>
__global__ void softmax_kernel(index rows, const float* scores, Scalar* weights) {
  const index row = static_cast<index>(blockIdx.x) * softmax_warps + threadIdx.x / warp_size;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  scores += row * tokens;
  float largest = scores[0], sum = 0;
  for (int i = lane; i < tokens; i += warp_size) largest = fmaxf(largest, scores[i]);
  largest = warp_largest(largest);
  for (int i = lane; i < tokens; i += warp_size) sum += expf(scores[i] - largest);
  const float inverse = 1 / warp_sum(sum);
  for (int i = lane; i < tokens; i += warp_size)
    weights[row * tokens + i] = static_cast<Scalar>(expf(scores[i] - largest) * inverse);
}

// d_scores = weights * (d_weights - sum of weights * d_weights), a warp to a row.
template <int tokens, class Scalar>
__global__ void softmax_gradient_kernel(index rows, const Scalar* weights, const float* d_weights, Scalar* d_scores) {
  const index row = static_cast<index>(blockIdx.x) * softmax_warps + threadIdx.x / warp_size;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  weights += row * tokens;
  d_weights += row * tokens;
  float along = 0;
  for (int i = lane; i < tokens; i += warp_size) along += static_cast<float>(weights[i]) * d_weights[i];
  along = warp_sum(along);
  for (int i = lane; i < tokens; i += warp_size)
    d_scores[row * tokens + i] = static_cast<Scalar>(static_cast<float>(weights[i]) * (d_weights[i] - along));
}

// The steps of PlainAttention for one shape. Operands of one head after the other have images*heads*tokens rows.
template <int tokens, int heads, int width, class Scalar>
struct PlainAttentionSteps {
  static constexpr int dim = width / heads, size = vector_width<Scalar>(dim);
  using PerHead = Rows<Scalar, dim>;
  using Weights = Rows<Scalar, tokens>;

  Backend<Scalar>& backend;
  index rows;  // images*heads*tokens

  [[nodiscard]] PerHead take() const { return {backend.arena().template take<Scalar>(rows * dim), rows}; }

  // Columns [first, first + width) of a matrix whose heads are side by side.
  template <int columns>
  [[nodiscard]] PerHead split(Rows<const Scalar, columns> from, int first) const {
    const PerHead to = take();
    launch(backend, blocks_for(to.size(), element_threads, size), element_threads, 0,
           split_heads_kernel<tokens, heads, dim, size, Scalar>, to.size(), from.data, columns, first, to.data);
    return to;
  }
  template <int columns>
  void merge(PerHead from, Rows<Scalar, columns> to, int first) const {
    launch(backend, blocks_for(from.size(), element_threads, size), element_threads, 0,
           merge_heads_kernel<tokens, heads, dim, size, Scalar>, from.size(), from.data, columns, first, to.data);
  }

  // scale * a b^T of every head, in float.
  [[nodiscard]] float* scores(PerHead a, PerHead b, float scale) const {
    float* const result = backend.arena().template take<float>(rows * tokens);
    multiply(backend, Product<Scalar, float>{.rows = tokens,
                                             .columns = tokens,
                                             .depth = dim,
                                             .left = a.data,
                                             .left_transposed = false,
                                             .right = b.data,
                                             .right_transposed = true,
                                             .result = result,
                                             .scale = scale,
                                             .batch = rows / tokens});
    return result;
  }
  // scale * weights b, or scale * weights^T b, of every head.
  [[nodiscard]] PerHead weighted(Weights weights, bool transposed, PerHead b, float scale) const {
    const PerHead result = take();
    multiply(backend, Product<Scalar, Scalar>{.rows = tokens,
                                              .columns = dim,
                                              .depth = tokens,
                                              .left = weights.data,
                                              .left_transposed = transposed,
                                              .right = b.data,
                                              .right_transposed = false,
                                              .result = result.data,
                                              .scale = scale,
                                              .batch = rows / tokens});
    return result;
  }

  [[nodiscard]] static float scale() { return static_cast<float>(1 / std::sqrt(static_cast<double>(dim))); }

  void forward(Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out, Weights weights) const {
    const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
    const PerHead q = split(qkv, 0), k = split(qkv, width), v = split(qkv, 2 * width);
    launch(backend, blocks_for(rows, softmax_warps), softmax_warps * warp_size, 0, softmax_kernel<tokens, Scalar>, rows,
           scores(q, k, scale()), weights.data);
    merge(weighted(weights, false, v, 1), out, 0);
  }

  void backward(Rows<const Scalar, 3 * width> qkv, Weights weights, Rows<const Scalar, width> d_out,
                Rows<Scalar, 3 * width> d_qkv) const {
    const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
    const PerHead q = split(qkv, 0), k = split(qkv, width), v = split(qkv, 2 * width), gradient = split(d_out, 0);
    const Weights d_scores{backend.arena().template take<Scalar>(rows * tokens), rows};
    merge(weighted(weights, true, gradient, 1), d_qkv, 2 * width);
    launch(backend, blocks_for(rows, softmax_warps), softmax_warps * warp_size, 0,
           softmax_gradient_kernel<tokens, Scalar>, rows, weights.data, scores(gradient, v, 1), d_scores.data);
    merge(weighted(d_scores, false, k, scale()), d_qkv, 0);
    merge(weighted(d_scores, true, q, scale()), d_qkv, width);
  }
};

}  // namespace detail

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera

namespace tessera {
inline namespace TESSERA_ABI {
namespace attention {

// SoftmaxAttention by the definition, on the CUDA backend: keeps the weights, tokens x tokens numbers per head.
struct PlainAttention {
  template <class Scalar, int tokens, int heads>
  struct Saved {
    Rows<Scalar, tokens> weights;  // images*heads*tokens rows
  };

  // out (images*tokens x width) from qkv (images*tokens x 3 width): q, k, v, each with its heads side by side.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context& context, Rows<const Scalar, 3 * width> qkv,
                                              Rows<Scalar, width> out) {
    const Saved<Scalar, tokens, heads> saved{context.template take<tokens>(qkv.rows * heads)};
    using Steps = cuda::detail::PlainAttentionSteps<tokens, heads, width, Scalar>;
    Steps{context.backend, qkv.rows * heads}.forward(qkv, out, saved.weights);
    return saved;
  }

  // Assigns d_qkv. out is what forward gave.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context& context, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width>,
                       const Saved<Scalar, tokens, heads>& saved, Rows<const Scalar, width> d_out,
                       Rows<Scalar, 3 * width> d_qkv) {
    using Steps = cuda::detail::PlainAttentionSteps<tokens, heads, width, Scalar>;
    Steps{context.backend, qkv.rows * heads}.backward(qkv, saved.weights, d_out, d_qkv);
  }
};

}  // namespace attention
}  // namespace TESSERA_ABI
}  // namespace tessera
