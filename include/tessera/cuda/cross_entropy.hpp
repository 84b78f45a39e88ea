// Cross entropy of a classifier's logits with labels.
#pragma once

#include <cmath>
#include <limits>
#include <numbers>

#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int cross_entropy_rows = 8, cross_entropy_threads = cross_entropy_rows * warp_size;

// A row to a warp: the row's cross entropy and, unless gradient is null, its gradient divided by total.
template <class Scalar, int classes>
__global__ void __launch_bounds__(cross_entropy_threads)
    soft_cross_entropy_kernel(index rows, const Scalar* logits, const int* labels, const double* smoothing,
                              const double* lambda, index total, double* losses, Scalar* gradient) {
  constexpr int width = vector_width<Scalar>(classes), stride = warp_size * width;
  constexpr float to_base_2 = std::numbers::log2e_v<float>;
  const index row = static_cast<index>(blockIdx.x) * cross_entropy_rows + warp_of_block();
  if (row >= rows) return;
  const int lane = lane_of_warp();
  const double s = smoothing == nullptr ? 0.0 : *smoothing, lam = lambda == nullptr ? 1.0 : *lambda;
  const int own = labels[row], partner = lambda == nullptr ? own : labels[rows - 1 - row];
  const bool known = own >= 0 && own < classes && partner >= 0 && partner < classes;
  logits += row * classes;

  float largest = -std::numeric_limits<float>::infinity();
  for (int at = lane * width; at < classes; at += stride) {
    float value[width];
    load<width>(logits + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) largest = value[i] > largest ? value[i] : largest;
  }
  largest = warp_largest(largest);

  float sum = 0, all = 0;  // of the exponentials, and of the logits less the largest
  for (int at = lane * width; at < classes; at += stride) {
    float value[width];
    load<width>(logits + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      const float below = value[i] - largest;
      all += below;
      sum += std::exp2(below * to_base_2);
    }
  }
  sum = warp_sum(sum);
  all = warp_sum(all);
  const auto at_label = [&](int label) { return static_cast<double>(static_cast<float>(logits[label]) - largest); };
  if (lane == 0) {
    double cross = std::numeric_limits<double>::quiet_NaN();
    if (known)
      cross = std::log(static_cast<double>(sum)) - s / classes * static_cast<double>(all) -
              (1.0 - s) * (lam * at_label(own) + (1.0 - lam) * at_label(partner));
    losses[row] = cross;
  }
  if (gradient == nullptr) return;
  __syncwarp();  // the gradient may lie over the logits

  const double scale = known ? 1.0 / static_cast<double>(total) : std::numeric_limits<double>::quiet_NaN();
  const float share = static_cast<float>(scale) / sum, off = static_cast<float>(scale * s / classes);
  const float more = static_cast<float>(scale * (1.0 - s) * lam);
  const float more_partner = static_cast<float>(scale * (1.0 - s) * (1.0 - lam));
  auto* const to = reinterpret_cast<Vector<Scalar, width>*>(gradient + row * classes);
  for (int at = lane * width; at < classes; at += stride) {
    float value[width];
    load<width>(logits + at, value);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      value[i] = std::exp2((value[i] - largest) * to_base_2) * share - off;
      if (at + i == own) value[i] -= more;
      if (at + i == partner) value[i] -= more_partner;
    }
    store<width>(reinterpret_cast<Scalar*>(to + at / width), value);
  }
}

// *loss += the sum of losses divided by total, by one block. (Loss is a parameter so that a header may define it.)
template <class Loss>
__global__ void __launch_bounds__(cross_entropy_threads)
    add_losses_kernel(index count, index total, const Loss* losses, Loss* loss) {
  Loss sum = 0;
  for (index row = threadIdx.x; row < count; row += cross_entropy_threads) sum += losses[row];
  sum = block_sum(sum, reinterpret_cast<Loss*>(shared_memory()));
  if (threadIdx.x == 0) *loss += sum / static_cast<Loss>(total);
}

template <class Kept>
__global__ void keep_losses_kernel(index count, const double* losses, double share, double* loss, Kept* kept) {
  double sum = 0;
  for (index i = 0; i < count; ++i) {
    sum += losses[i];
    kept[i] = static_cast<Kept>(losses[i]);
  }
  *loss = share * sum;
}

}  // namespace detail

template <class Scalar, int classes>
void cross_entropy(Backend<Scalar>& backend, Rows<const Scalar, classes> logits, const int* labels,
                   const double* smoothing, const double* lambda, index total, double* loss,
                   Rows<Scalar, classes> d_logits) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  double* const losses = backend.arena().template take<double>(logits.rows);
  launch(backend, dim3(static_cast<unsigned>(divide_up(logits.rows, detail::cross_entropy_rows))),
         detail::cross_entropy_threads, 0, detail::soft_cross_entropy_kernel<Scalar, classes>, logits.rows, logits.data,
         labels, smoothing, lambda, total, losses, d_logits.wanted() ? d_logits.data : nullptr);
  launch(backend, dim3(1), detail::cross_entropy_threads, warp_size * static_cast<index>(sizeof(double)),
         detail::add_losses_kernel<double>, logits.rows, total, losses, loss);
}

template <class Scalar>
void keep_losses(Backend<Scalar>& backend, index count, const double* losses, double share, double* loss,
                 Accumulator<Scalar>* kept) {
  launch(backend, dim3(1), 1, 0, detail::keep_losses_kernel<Accumulator<Scalar>>, count, losses, share, loss, kept);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
