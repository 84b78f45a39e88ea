// NT-Xent, the loss of SimCLR.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>

#include "tessera/core/info_nce.hpp"
#include "tessera/core/nt_xent.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/contrastive.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/products.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

// A row of similarities to a block: row `blockIdx.x` is the anchor first + blockIdx.x of n. Gives its log-sum and its
// cross entropy.
template <int width>
__global__ void log_sums_kernel(index n, index first, const double* temperature, const float* similarities,
                                float* log_sums, double* losses) {
  const index row = blockIdx.x, anchor = first + row, stride = softmax_threads * width;
  const double inverse_temperature = 1.0 / *temperature;
  const float scale = static_cast<float>(std::numbers::log2e * inverse_temperature);
  similarities += row * n;
  const float positive = similarities[other_view(anchor, n)];
  LogSum all{positive, 0};
  for (index at = static_cast<index>(threadIdx.x) * width; at < n; at += stride) {
    float value[width];
    load<width>(similarities + at, value);
    const float before = all.largest;
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      if (at + i == anchor) value[i] = -std::numeric_limits<float>::infinity();
      all.largest = value[i] > all.largest ? value[i] : all.largest;
    }
    all.sum *= std::exp2(scale * (before - all.largest));
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) all.sum += std::exp2(scale * (value[i] - all.largest));
  }
  all = sum_over_block(all, scale, reinterpret_cast<LogSum*>(shared_memory()));
  if (threadIdx.x > 0) return;
  const double log_sum = std::log(static_cast<double>(all.sum));
  log_sums[row] = static_cast<float>(log_sum + static_cast<double>(all.largest) * inverse_temperature);
  losses[row] = log_sum - static_cast<double>(positive - all.largest) * inverse_temperature;
}

// The factors of z's rows in the gradient of a row: (p_ij + p_ji) / (2n tau), 0 for itself, and 2 / (2n tau) less for
// its other view. They may lie over the similarities.
template <int width, class Scalar>
__global__ void nt_xent_weights_kernel(index n, index first, const double* temperature, const float* log_sums,
                                       const float* similarities, Scalar* weights) {
  const index row = blockIdx.x, anchor = first + row, other = other_view(anchor, n), stride = softmax_threads * width;
  const double inverse_temperature = 1.0 / *temperature;
  const float to_logit = static_cast<float>(inverse_temperature);
  const float share = static_cast<float>(inverse_temperature / static_cast<double>(n));
  const float of_anchor = log_sums[anchor];
  similarities += row * n;
  auto* const to = reinterpret_cast<Vector<Scalar, width>*>(weights + row * n);
  for (index at = static_cast<index>(threadIdx.x) * width; at < n; at += stride) {
    float value[width], of_candidate[width];
    load<width>(similarities + at, value);
    load<width>(log_sums + at, of_candidate);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      const float logit = value[i] * to_logit;
      value[i] = (std::exp(logit - of_anchor) + std::exp(logit - of_candidate[i])) * share;
      if (at + i == anchor) value[i] = 0;
      if (at + i == other) value[i] -= 2 * share;
    }
    store<width>(reinterpret_cast<Scalar*>(to + at / width), value);
  }
}

// similarities (count x z.rows) of z's rows [first, first + count) to all.
template <class Scalar, int columns>
void multiply_with_all(Backend<Scalar>& backend, Rows<const Scalar, columns> z, index first, index count,
                       float* similarities) {
  multiply(backend, Product<Scalar, float>{.rows = count,
                                           .columns = z.rows,
                                           .depth = columns,
                                           .left = z.row(first),
                                           .left_transposed = false,
                                           .right = z.data,
                                           .right_transposed = true,
                                           .result = similarities});
}

}  // namespace detail

template <class Scalar, int columns>
void nt_xent_forward(Backend<Scalar>& backend, Rows<const Scalar, columns> z, const double* temperature, index first,
                     Rows<Accumulator<Scalar>, 1> log_sums, double* loss) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index n = z.rows, count = log_sums.rows, most = detail::queries_at_once(count, n);
  double* const losses = backend.arena().template take<double>(count);
  float* const similarities = backend.arena().template take<float>(most * n);
  const auto kernel = n % 4 == 0 ? detail::log_sums_kernel<4> : detail::log_sums_kernel<1>;
  for (index at = 0; at < count; at += most) {
    const index rows = (std::min)(most, count - at);
    detail::multiply_with_all(backend, z, first + at, rows, similarities);
    launch(backend, dim3(static_cast<unsigned>(rows)), detail::softmax_threads,
           warp_size * static_cast<index>(sizeof(detail::LogSum)), kernel, n, first + at, temperature, similarities,
           log_sums.row(at), losses + at);
  }
  launch(backend, dim3(1), detail::softmax_threads, warp_size * static_cast<index>(sizeof(double)),
         detail::sum_losses_kernel<double>, count, InfoNce{}, temperature, n, losses, loss);
}

template <class Scalar, int columns>
void nt_xent_backward(Backend<Scalar>& backend, Rows<const Scalar, columns> z, const double* temperature, index first,
                      Rows<const Accumulator<Scalar>, 1> log_sums, Rows<Scalar, columns> d_z) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index n = z.rows, most = detail::queries_at_once(d_z.rows, n);
  float* const similarities = backend.arena().template take<float>(most * n);
  Scalar* weights = nullptr;
  if constexpr (std::is_same_v<Scalar, float>)
    weights = similarities;
  else
    weights = backend.arena().template take<Scalar>(most * n);
  const auto kernel =
      n % 4 == 0 ? detail::nt_xent_weights_kernel<4, Scalar> : detail::nt_xent_weights_kernel<1, Scalar>;
  for (index at = 0; at < d_z.rows; at += most) {
    const index rows = (std::min)(most, d_z.rows - at);
    detail::multiply_with_all(backend, z, first + at, rows, similarities);
    launch(backend, dim3(static_cast<unsigned>(rows)), detail::softmax_threads, 0, kernel, n, first + at, temperature,
           log_sums.data, similarities, weights);
    multiply(backend, Product<Scalar, Scalar>{.rows = rows,
                                              .columns = columns,
                                              .depth = n,
                                              .left = weights,
                                              .left_transposed = false,
                                              .right = z.data,
                                              .right_transposed = false,
                                              .result = d_z.row(at)});
  }
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
