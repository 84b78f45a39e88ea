// A subset of each image's tokens, named by number.
#pragma once

#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int kept_threads = 256;

// A vector of a kept token to a thread: moved from its place among all tokens, or there.
template <int tokens, int kept, int width, bool to_all, class Scalar>
__global__ void __launch_bounds__(kept_threads)
    move_tokens_kernel(index rows, const Scalar* from, const int* keep, Scalar* to) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each;
  using Moved = Vector<Scalar, each>;
  const index at = static_cast<index>(blockIdx.x) * kept_threads + threadIdx.x, row = at / vectors;
  if (row >= rows) return;
  const index other = (row / kept * tokens + keep[row]) * vectors + at % vectors;
  reinterpret_cast<Moved*>(to)[to_all ? other : at] = reinterpret_cast<const Moved*>(from)[to_all ? at : other];
}

// A vector of y to a thread.
template <int extra, int kept, int width, class Scalar>
__global__ void __launch_bounds__(kept_threads)
    add_positions_kernel(index rows, const float* positions, const int* keep, Scalar* y) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, tokens = extra + kept;
  const index at = static_cast<index>(blockIdx.x) * kept_threads + threadIdx.x, row = at / vectors;
  if (row >= rows) return;
  const index token = row % tokens;
  const index position = token < extra ? token : extra + keep[row / tokens * kept + token - extra];
  float values[each], added[each];
  load<each>(y + at * each, values);
  load<each>(positions + (position * vectors + at % vectors) * each, added);
  TESSERA_UNROLL
  for (int i = 0; i < each; ++i) values[i] += added[i];
  store<each>(y + at * each, values);
}

// A lane to a vector of one row of the table, the images dealt out to the block's warps.
template <int extra, int kept, int width, class Scalar>
__global__ void __launch_bounds__(kept_threads)
    add_positions_gradient_kernel(index images, const Scalar* dy, const int* keep, float* d_positions) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, tokens = extra + kept;
  constexpr int warps = kept_threads / warp_size;
  constexpr unsigned blocks = static_cast<unsigned>(divide_up(vectors, warp_size));
  const int position = static_cast<int>(blockIdx.x / blocks);
  const int at = static_cast<int>(blockIdx.x % blocks * warp_size + threadIdx.x % warp_size);
  const int warp = static_cast<int>(threadIdx.x / warp_size);
  float sums[each] = {};
  const auto add = [&](index row) {
    float values[each];
    load<each>(dy + (row * vectors + at) * each, values);
    TESSERA_UNROLL
    for (int k = 0; k < each; ++k) sums[k] += values[k];
  };
  for (index image = warp; at < vectors && image < images; image += warps) {
    if (position < extra) {
      add(image * tokens + position);
      continue;
    }
    for (int i = 0; i < kept; ++i)
      if (keep[image * kept + i] == position - extra) add(image * tokens + extra + i);
  }
  sum_over_warps(sums, reinterpret_cast<float*>(shared_memory()));
  if (warp > 0 || at >= vectors) return;
  store<each>(d_positions + (static_cast<index>(position) * vectors + at) * each, sums);
}

template <int width, class Scalar>
[[nodiscard]] dim3 kept_blocks(index rows) {
  return blocks_for(rows * (width / vector_width<Scalar>(width)), kept_threads);
}

}  // namespace detail

template <int tokens, int kept, class Scalar, int width>
void gather_tokens(Backend<Scalar>& backend, Rows<const Scalar, width> x, const int* keep, Rows<Scalar, width> y) {
  launch(backend, detail::kept_blocks<width, Scalar>(y.rows), detail::kept_threads, 0,
         detail::move_tokens_kernel<tokens, kept, width, false, Scalar>, y.rows, x.data, keep, y.data);
}

template <int tokens, int kept, class Scalar, int width>
void scatter_tokens(Backend<Scalar>& backend, Rows<const Scalar, width> dy, const int* keep, Rows<Scalar, width> dx) {
  backend.clear(dx.size(), dx.data);
  launch(backend, detail::kept_blocks<width, Scalar>(dy.rows), detail::kept_threads, 0,
         detail::move_tokens_kernel<tokens, kept, width, true, Scalar>, dy.rows, dy.data, keep, dx.data);
}

template <int extra, int kept, class Scalar, int width>
void add_positions(Backend<Scalar>& backend, Rows<const float, width> positions, const int* keep,
                   Rows<Scalar, width> y) {
  launch(backend, detail::kept_blocks<width, Scalar>(y.rows), detail::kept_threads, 0,
         detail::add_positions_kernel<extra, kept, width, Scalar>, y.rows, positions.data, keep, y.data);
}

template <int extra, int kept, class Scalar, int width>
void add_positions_backward(Backend<Scalar>& backend, Rows<const Scalar, width> dy, const int* keep,
                            Rows<float, width> d_positions) {
  constexpr int each = vector_width<Scalar>(width);
  constexpr index blocks = divide_up(width / each, warp_size);
  launch(backend, dim3(static_cast<unsigned>(d_positions.rows * blocks)), detail::kept_threads,
         index{detail::kept_threads} * each * static_cast<index>(sizeof(float)),
         detail::add_positions_gradient_kernel<extra, kept, width, Scalar>, dy.rows / (extra + kept), dy.data, keep,
         d_positions.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
