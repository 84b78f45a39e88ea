// Cosine similarities and the contrastive loss.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>

#include "tessera/core/info_nce.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/linear.hpp"
#include "tessera/cuda/products.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

inline constexpr double smallest_norm = 1e-12;  // as in PyTorch's F.normalize

namespace detail {

// Rows of a block, one to a warp.
inline constexpr int rows_of_block = 8;

[[nodiscard]] inline dim3 blocks_of_rows(index rows) {
  return dim3(static_cast<unsigned>(divide_up(rows, rows_of_block)));
}
[[nodiscard]] __device__ inline index row_of_warp() {
  return static_cast<index>(blockIdx.x) * rows_of_block + threadIdx.x / warp_size;
}

template <class Scalar, int columns>
__global__ void normalize_rows_kernel(index rows, const Scalar* x, Scalar* y, float* inverse_norms) {
  constexpr int width = vector_width<Scalar>(columns), stride = warp_size * width;
  const index row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  x += row * columns;
  auto* const to = reinterpret_cast<Vector<Scalar, width>*>(y + row * columns);
  float squares = 0;
  for (int at = lane * width; at < columns; at += stride) {
    float value[width];
    load<width>(x + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) squares += value[i] * value[i];
  }
  const float norm = std::sqrt(warp_sum(squares));
  const float inverse = 1.0f / (norm < static_cast<float>(smallest_norm) ? static_cast<float>(smallest_norm) : norm);
  if (lane == 0) inverse_norms[row] = inverse;
  for (int at = lane * width; at < columns; at += stride) {
    float value[width];
    load<width>(x + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) value[i] *= inverse;
    store<width>(reinterpret_cast<Scalar*>(to + at / width), value);
  }
}

template <class Scalar, int columns>
__global__ void normalize_rows_gradient_kernel(index rows, const Scalar* y, const float* inverse_norms,
                                               const Scalar* dy, Scalar* dx) {
  constexpr int width = vector_width<Scalar>(columns), stride = warp_size * width;
  const index row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  y += row * columns;
  dy += row * columns;
  auto* const to = reinterpret_cast<Vector<Scalar, width>*>(dx + row * columns);
  float along = 0;
  for (int at = lane * width; at < columns; at += stride) {
    float value[width], gradient[width];
    load<width>(y + at, value);
    load<width>(dy + at, gradient);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) along += value[i] * gradient[i];
  }
  along = warp_sum(along);
  const float inverse = inverse_norms[row];
  for (int at = lane * width; at < columns; at += stride) {
    float value[width], gradient[width];
    load<width>(y + at, value);
    load<width>(dy + at, gradient);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) gradient[i] = (gradient[i] - value[i] * along) * inverse;
    store<width>(reinterpret_cast<Scalar*>(to + at / width), gradient);
  }
}

inline constexpr int softmax_threads = 256;

// The largest of some logits, and the sum of 2^(scale (logit - largest)) over them.
struct LogSum {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;

  // The maximum and the sum of both sets of logits together.
  __device__ void add(LogSum other, float scale) {
    const float both = other.largest > largest ? other.largest : largest;
    if (both == -std::numeric_limits<float>::infinity()) return;
    sum = sum * std::exp2(scale * (largest - both)) + other.sum * std::exp2(scale * (other.largest - both));
    largest = both;
  }
};

// The maximum and the sum over the logits of all threads of the block; every thread receives them. room: shared memory
// for softmax_threads / warp_size of them.
__device__ inline LogSum sum_over_block(LogSum value, float scale, LogSum* room) {
  TESSERA_UNROLL
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value.add({__shfl_xor_sync(whole_warp, value.largest, distance), __shfl_xor_sync(whole_warp, value.sum, distance)},
              scale);
  if (threadIdx.x % warp_size == 0) room[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = room[0];
  TESSERA_UNROLL
  for (int warp = 1; warp < softmax_threads / warp_size; ++warp) value.add(room[warp], scale);
  return value;
}

// A row of logits (not yet divided by the temperature) to a block: the row's cross entropy and, unless gradient is
// null, its gradient times term's factor / total. The gradient may lie over the logits.
template <int width, class Scalar>
__global__ void cross_entropy_kernel(index keys, InfoNce term, const double* temperature, index first_label,
                                     index total, const float* logits, double* losses, Scalar* gradient) {
  const index row = blockIdx.x, label = first_label + row, stride = softmax_threads * width;
  const index first = static_cast<index>(threadIdx.x) * width;
  const double inverse_temperature = 1.0 / *temperature;
  const float scale = static_cast<float>(std::numbers::log2e * inverse_temperature);
  logits += row * keys;
  LogSum all;
  for (index at = first; at < keys; at += stride) {
    float value[width];
    load<width>(logits + at, value);
    const float before = all.largest;
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) all.largest = value[i] > all.largest ? value[i] : all.largest;
    all.sum *= std::exp2(scale * (before - all.largest));
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) all.sum += std::exp2(scale * (value[i] - all.largest));
  }
  const float positive = logits[label];
  all = sum_over_block(all, scale, reinterpret_cast<LogSum*>(shared_memory()));
  if (threadIdx.x == 0)
    losses[row] =
        std::log(static_cast<double>(all.sum)) - static_cast<double>(positive - all.largest) * inverse_temperature;
  if (gradient == nullptr) return;
  gradient += row * keys;
  const float gradient_scale = static_cast<float>(term.of_gradient(*temperature) / static_cast<double>(total)),
              share = gradient_scale / all.sum;
  for (index at = first; at < keys; at += stride) {
    float value[width];
    load<width>(logits + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      value[i] = std::exp2(scale * (value[i] - all.largest)) * share;
      if (at + i == label) value[i] -= gradient_scale;
    }
    store<width>(gradient + at, value);
  }
}

// *loss += term's factor / total times the sum of losses, by one block.
template <class Loss>
__global__ void sum_losses_kernel(index count, InfoNce term, const double* temperature, index total,
                                  const double* losses, Loss* loss) {
  Loss sum = 0;
  for (index row = threadIdx.x; row < count; row += softmax_threads) sum += losses[row];
  sum = block_sum(sum, reinterpret_cast<Loss*>(shared_memory()));
  if (threadIdx.x == 0) *loss += term.of_loss(*temperature) / static_cast<double>(total) * sum;
}

// Queries that are compared with the keys at a time: their logits stay in the second-level cache.
[[nodiscard]] constexpr index queries_at_once(index queries, index keys) {
  constexpr index bytes = index{16} << 20, least = 64, most = 1024;
  const index slices = divide_up(queries, std::clamp(bytes / (keys * index{sizeof(float)}), least, most));
  return divide_up(queries, slices);
}

}  // namespace detail

template <class Scalar, int columns>
void normalize_rows(Backend<Scalar>& backend, Rows<const Scalar, columns> x, Rows<Scalar, columns> y,
                    Rows<Accumulator<Scalar>, 1> inverse_norms) {
  launch(backend, detail::blocks_of_rows(x.rows), detail::rows_of_block * warp_size, 0,
         detail::normalize_rows_kernel<Scalar, columns>, x.rows, x.data, y.data, inverse_norms.data);
}

template <class Scalar, int columns>
void normalize_rows_backward(Backend<Scalar>& backend, Rows<const Scalar, columns> y,
                             Rows<const Accumulator<Scalar>, 1> inverse_norms, Rows<const Scalar, columns> dy,
                             Rows<Scalar, columns> dx) {
  launch(backend, detail::blocks_of_rows(y.rows), detail::rows_of_block * warp_size, 0,
         detail::normalize_rows_gradient_kernel<Scalar, columns>, y.rows, y.data, inverse_norms.data, dy.data, dx.data);
}

template <class Scalar, int columns>
void info_nce(Backend<Scalar>& backend, Rows<const Scalar, columns> q, Rows<const Scalar, columns> k, InfoNce term,
              const double* temperature, index first_label, index total, double* loss, Rows<Scalar, columns> d_q) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index keys = k.rows, most = detail::queries_at_once(q.rows, keys);
  double* const losses = backend.arena().template take<double>(q.rows);
  float* const logits = backend.arena().template take<float>(most * keys);
  Scalar* gradient = nullptr;
  if (d_q.wanted()) {
    if constexpr (std::is_same_v<Scalar, float>)
      gradient = logits;
    else
      gradient = backend.arena().template take<Scalar>(most * keys);
  }
  const auto kernel = keys % 4 == 0 ? detail::cross_entropy_kernel<4, Scalar> : detail::cross_entropy_kernel<1, Scalar>;
  for (index first = 0; first < q.rows; first += most) {
    const index queries = (std::min)(most, q.rows - first);
    multiply(backend, Product<Scalar, float>{.rows = queries,
                                             .columns = keys,
                                             .depth = columns,
                                             .left = q.row(first),
                                             .left_transposed = false,
                                             .right = k.data,
                                             .right_transposed = true,
                                             .result = logits});
    launch(backend, dim3(static_cast<unsigned>(queries)), detail::softmax_threads,
           warp_size * static_cast<index>(sizeof(detail::LogSum)), kernel, keys, term, temperature, first_label + first,
           total, logits, losses + first, gradient);
    if (d_q.wanted())
      multiply(backend, Product<Scalar, Scalar>{.rows = queries,
                                                .columns = columns,
                                                .depth = keys,
                                                .left = gradient,
                                                .left_transposed = false,
                                                .right = k.data,
                                                .right_transposed = false,
                                                .result = d_q.row(first)});
  }
  launch(backend, dim3(1), detail::softmax_threads, warp_size * static_cast<index>(sizeof(double)),
         detail::sum_losses_kernel<double>, q.rows, term, temperature, total, losses, loss);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
