// Masks, mask tokens and the loss of masked auto-encoding.
#pragma once

#include <cmath>

#include "tessera/core/masking.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int masking_threads = 256, masking_warps = masking_threads / warp_size;

// An image to a block, a patch to a thread. Shared memory: the noise.
template <int patches, int kept, class Noise>
__global__ void __launch_bounds__(masking_threads) order_patches_kernel(Noise noise_of, int* keep, int* restore) {
  auto* const noise = reinterpret_cast<float*>(shared_memory());
  const index image = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  for (int patch = thread; patch < patches; patch += masking_threads) noise[patch] = noise_of(image, patch);
  __syncthreads();
  for (int patch = thread; patch < patches; patch += masking_threads) {
    const int place = place_in_order(noise, patches, patch);
    restore[image * patches + patch] = place;
    if (place < kept) keep[image * kept + place] = patch;
  }
}

template <int patches, int kept, class Scalar, class Noise>
void order_patches(Backend<Scalar>& backend, Noise noise, index images, int* keep, int* restore) {
  launch(backend, dim3(static_cast<unsigned>(images)), masking_threads, index{patches} * sizeof(float),
         order_patches_kernel<patches, kept, Noise>, noise, keep, restore);
}

// A vector of y to a thread.
template <int extra, int patches, int kept, int width, class Scalar>
__global__ void __launch_bounds__(masking_threads)
    unshuffle_tokens_kernel(index rows, const Scalar* x, const float* mask_token, const float* positions,
                            const int* restore, Scalar* y) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, tokens = extra + patches;
  const index at = static_cast<index>(blockIdx.x) * masking_threads + threadIdx.x, row = at / vectors;
  if (row >= rows) return;
  const index image = row / tokens, token = row % tokens, column = at % vectors;
  const index place = token < extra ? token - extra : restore[image * patches + token - extra];
  float values[each], added[each];
  if (place < kept)
    load<each>(x + ((image * (extra + kept) + extra + place) * vectors + column) * each, values);
  else
    load<each>(mask_token + column * each, values);
  load<each>(positions + (token * vectors + column) * each, added);
  TESSERA_UNROLL
  for (int i = 0; i < each; ++i) values[i] += added[i];
  store<each>(reinterpret_cast<Scalar*>(reinterpret_cast<Vector<Scalar, each>*>(y) + at), values);
}

// A vector of dx to a thread.
template <int extra, int patches, int kept, int width, class Scalar>
__global__ void __launch_bounds__(masking_threads)
    shuffle_tokens_kernel(index rows, const Scalar* dy, const int* keep, Scalar* dx) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, tokens = extra + kept;
  using Moved = Vector<Scalar, each>;
  const index at = static_cast<index>(blockIdx.x) * masking_threads + threadIdx.x, row = at / vectors;
  if (row >= rows) return;
  const index image = row / tokens, token = row % tokens;
  const index from = token < extra ? token : extra + keep[image * kept + token - extra];
  reinterpret_cast<Moved*>(dx)[at] =
      reinterpret_cast<const Moved*>(dy)[(image * (extra + patches) + from) * vectors + at % vectors];
}

// Rows of `rows` that are added up: group g has `count` rows, which start at row g * stride + first. Where `restore` is
// not null, only those of removed patches.
struct AddedRows {
  index count, stride, first;
  const int* restore;
  int kept;

  [[nodiscard]] __device__ bool has(index group, index i) const {
    return restore == nullptr || restore[group * count + i] >= kept;
  }
};

// A lane to a vector of a group's sum, its rows dealt out to the block's warps.
template <int width, class Element>
__global__ void __launch_bounds__(masking_threads) add_rows_kernel(AddedRows rows, const Element* from, float* to) {
  constexpr int each = vector_width<Element>(width), vectors = width / each;
  constexpr unsigned blocks = static_cast<unsigned>(divide_up(vectors, warp_size));
  const index group = blockIdx.x / blocks;
  const int at = static_cast<int>(blockIdx.x % blocks) * warp_size + lane_of_warp();
  float sums[each] = {};
  for (index i = warp_of_block(); at < vectors && i < rows.count; i += masking_warps) {
    if (!rows.has(group, i)) continue;
    float values[each];
    load<each>(from + ((group * rows.stride + rows.first + i) * vectors + at) * each, values);
    TESSERA_UNROLL
    for (int k = 0; k < each; ++k) sums[k] += values[k];
  }
  sum_over_warps(sums, reinterpret_cast<float*>(shared_memory()));
  if (warp_of_block() > 0 || at >= vectors) return;
  store<each>(to + (group * vectors + at) * each, sums);
}

template <int width, class Scalar, class Element>
void add_rows(Backend<Scalar>& backend, index groups, const AddedRows& rows, const Element* from, float* to) {
  constexpr int each = vector_width<Element>(width);
  constexpr index blocks = divide_up(width / each, warp_size);
  launch(backend, dim3(static_cast<unsigned>(groups * blocks)), masking_threads,
         index{masking_threads} * each * static_cast<index>(sizeof(float)), add_rows_kernel<width, Element>, rows, from,
         to);
}

// A patch to a warp, which reads it plane by plane.
template <int channels, int size, int patch, bool normalized, class Scalar>
__global__ void __launch_bounds__(masking_threads)
    patch_targets_kernel(index rows, const Scalar* images, Scalar* targets) {
  constexpr int grid = size / patch, area = patch * patch, values = channels * area;
  const index row = static_cast<index>(blockIdx.x) * masking_warps + warp_of_block();
  if (row >= rows) return;
  const int number = static_cast<int>(row % (grid * grid));
  const Scalar* const corner =
      images + row / (grid * grid) * (channels * size * size) + number / grid * patch * size + number % grid * patch;
  const auto pixel = [&](int i) {
    return static_cast<float>(corner[i / area * (size * size) + i / patch % patch * size + i % patch]);
  };
  float mean = 0, scale = 1;
  if constexpr (normalized) {
    float sum = 0, squares = 0;
    for (int i = lane_of_warp(); i < values; i += warp_size) sum += pixel(i);
    mean = warp_sum(sum) / values;
    for (int i = lane_of_warp(); i < values; i += warp_size) squares += (pixel(i) - mean) * (pixel(i) - mean);
    scale = 1.0f / std::sqrt(warp_sum(squares) / (values - 1) + static_cast<float>(patch_epsilon));
  }
  for (int i = lane_of_warp(); i < values; i += warp_size)
    targets[row * values + i % area * channels + i / area] = static_cast<Scalar>((pixel(i) - mean) * scale);
}

// A row of predictions to a warp: its gradient, and, of a patch, the sum of squares (0 if it is kept).
template <int extra, int patches, int kept, int width, class Scalar>
__global__ void __launch_bounds__(masking_threads)
    masked_mse_kernel(index rows, const Scalar* prediction, const Scalar* targets, const int* restore, float scale,
                      double* squares, Scalar* d_prediction) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, tokens = extra + patches;
  using Moved = Vector<Scalar, each>;
  const index row = static_cast<index>(blockIdx.x) * masking_warps + warp_of_block();
  if (row >= rows) return;
  const index token = row % tokens, patch = row / tokens * patches + token - extra;
  const bool removed = token >= extra && restore[patch] >= kept;
  auto* const to = reinterpret_cast<Moved*>(d_prediction) + row * vectors;
  float sum = 0;
  for (int at = lane_of_warp(); at < vectors; at += warp_size) {
    float values[each] = {}, target[each];
    if (removed) {
      load<each>(prediction + (row * vectors + at) * each, values);
      load<each>(targets + (patch * vectors + at) * each, target);
      TESSERA_UNROLL
      for (int i = 0; i < each; ++i) {
        values[i] -= target[i];
        sum += values[i] * values[i];
        values[i] *= scale;
      }
    }
    store<each>(reinterpret_cast<Scalar*>(to + at), values);
  }
  sum = warp_sum(sum);
  if (lane_of_warp() == 0 && token >= extra) squares[patch] = static_cast<double>(sum);
}

// *loss += share times the sum of squares, by one block. (Loss is a parameter so that a header may define it.)
template <class Loss>
__global__ void __launch_bounds__(masking_threads)
    add_squares_kernel(index count, const Loss* squares, Loss share, Loss* loss) {
  Loss sum = 0;
  for (index i = threadIdx.x; i < count; i += masking_threads) sum += squares[i];
  sum = block_sum(sum, reinterpret_cast<Loss*>(shared_memory()));
  if (threadIdx.x == 0) *loss += share * sum;
}

template <int width, class Scalar>
[[nodiscard]] dim3 masking_blocks(index rows) {
  return blocks_for(rows * (width / vector_width<Scalar>(width)), masking_threads);
}
[[nodiscard]] inline dim3 rows_to_warps(index rows) {
  return dim3(static_cast<unsigned>(divide_up(rows, masking_warps)));
}

}  // namespace detail

template <int patches, int kept, class Scalar>
void draw_mask(Backend<Scalar>& backend, const StepNumber* number, index first_image, index images, int* keep,
               int* restore) {
  detail::order_patches<patches, kept>(backend, DrawnMaskNoise{number, first_image}, images, keep, restore);
}

template <int patches, int kept, class Scalar>
void mask_by_noise(Backend<Scalar>& backend, const float* noise, index images, int* keep, int* restore) {
  detail::order_patches<patches, kept>(backend, GivenMaskNoise<patches>{noise}, images, keep, restore);
}

template <int extra, int patches, int kept, class Scalar, int width>
void unshuffle_tokens(Backend<Scalar>& backend, Rows<const Scalar, width> x, const Accumulator<Scalar>* mask_token,
                      const Accumulator<Scalar>* positions, const int* restore, Rows<Scalar, width> y) {
  launch(backend, detail::masking_blocks<width, Scalar>(y.rows), detail::masking_threads, 0,
         detail::unshuffle_tokens_kernel<extra, patches, kept, width, Scalar>, y.rows, x.data, mask_token, positions,
         restore, y.data);
}

template <int extra, int patches, int kept, class Scalar, int width>
void unshuffle_tokens_backward(Backend<Scalar>& backend, Rows<const Scalar, width> dy, const int* keep,
                               const int* restore, Rows<Scalar, width> dx, Accumulator<Scalar>* d_mask_token) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index images = dy.rows / (extra + patches);
  float* const sums = backend.arena().template take<float>(images * width);
  launch(backend, detail::masking_blocks<width, Scalar>(dx.rows), detail::masking_threads, 0,
         detail::shuffle_tokens_kernel<extra, patches, kept, width, Scalar>, dx.rows, dy.data, keep, dx.data);
  detail::add_rows<width>(backend, images, {patches, extra + patches, extra, restore, kept}, dy.data, sums);
  detail::add_rows<width>(backend, 1, {images, images, 0, nullptr, 0}, static_cast<const float*>(sums), d_mask_token);
}

template <int channels, int size, int patch, bool normalized, class Scalar>
void patch_targets(Backend<Scalar>& backend, Rows<const Scalar, channels * size * size> images,
                   Rows<Scalar, channels * patch * patch> targets) {
  launch(backend, detail::rows_to_warps(targets.rows), detail::masking_threads, 0,
         detail::patch_targets_kernel<channels, size, patch, normalized, Scalar>, targets.rows, images.data,
         targets.data);
}

template <int extra, int patches, int kept, class Scalar, int width>
void masked_mse(Backend<Scalar>& backend, Rows<const Scalar, width> prediction, Rows<const Scalar, width> targets,
                const int* restore, double weight, index total, double* loss, Rows<Scalar, width> d_prediction) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  double* const squares = backend.arena().template take<double>(targets.rows);
  const double share = weight / (static_cast<double>(total) * width);
  launch(backend, detail::rows_to_warps(prediction.rows), detail::masking_threads, 0,
         detail::masked_mse_kernel<extra, patches, kept, width, Scalar>, prediction.rows, prediction.data, targets.data,
         restore, static_cast<float>(2 * share), squares, d_prediction.data);
  launch(backend, dim3(1), detail::masking_threads, warp_size * static_cast<index>(sizeof(double)),
         detail::add_squares_kernel<double>, targets.rows, squares, share, loss);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
