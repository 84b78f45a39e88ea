// Layer normalization over the columns of each row.
#pragma once

#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

// The distribution of rows over the registers of a block: `warps` warps hold a row, `teams` rows at a time; vector v of
// a lane starts at column (v * lanes + lane) * width. most_values: the most values of a row that a lane may hold.
template <class Scalar, int columns, int most_values>
struct RowShare {
  static constexpr int width = vector_width<Scalar>(columns);
  static constexpr int warps = static_cast<int>(divide_up(columns, warp_size*most_values)), lanes = warp_size * warps;
  static constexpr int vectors = static_cast<int>(divide_up(columns / width, lanes));
  static constexpr int teams = warps < 4 ? 4 / warps : 1, threads = teams * lanes;
  static_assert(threads <= 1024, "tessera: the CUDA backend normalises rows of at most 12288 values");
  using Part = float[vectors][width];

  static __device__ int team() { return static_cast<int>(threadIdx.x) / lanes; }
  static __device__ int number(int vector) { return vector * lanes + static_cast<int>(threadIdx.x % lanes); }
  static __device__ int column(int vector) { return number(vector) * width; }
  static __device__ bool holds(int vector) {
    return (vector + 1) * lanes * width <= columns || column(vector) < columns;
  }

  // The lane's part of a row; zeros beyond its end, and everywhere if `row` is null.
  template <class Element>
  static __device__ void load_part(const Element* row, Part& part) {
    TESSERA_UNROLL
    for (int v = 0; v < vectors; ++v) {
      if (row != nullptr && holds(v)) {
        load<width>(row + column(v), part[v]);
        continue;
      }
      TESSERA_UNROLL
      for (int i = 0; i < width; ++i) part[v][i] = 0;
    }
  }

  template <class Element>
  static __device__ void store_part(Element* row, const Part& part) {
    auto* const to = reinterpret_cast<Vector<Element, width>*>(row);
    TESSERA_UNROLL
    for (int v = 0; v < vectors; ++v)
      if (holds(v)) store<width>(reinterpret_cast<Element*>(to + number(v)), part[v]);
  }

  // visit(v, i) for all values of the part.
  template <class Visit>
  static __device__ void for_values(Visit&& visit) {
    TESSERA_UNROLL
    for (int v = 0; v < vectors; ++v) {
      TESSERA_UNROLL
      for (int i = 0; i < width; ++i) visit(v, i);
    }
  }

  // The sums over the lanes of each team. room: `count` floats for every warp of the block, free again after it.
  template <int count>
  static __device__ void sum(float (&sums)[count], float* room) {
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) sums[i] = warp_sum(sums[i]);
    if constexpr (warps > 1) {
      if (threadIdx.x % warp_size == 0)
        for (int i = 0; i < count; ++i) room[static_cast<int>(threadIdx.x) / warp_size * count + i] = sums[i];
      __syncthreads();
      const float* const first = room + team() * warps * count;
      for (int i = 0; i < count; ++i) {
        sums[i] = first[i];
        for (int warp = 1; warp < warps; ++warp) sums[i] += first[warp * count + i];
      }
      __syncthreads();
    }
  }
};

// A team normalises `rows_at_once` rows, which share what it loads of weight and bias.
template <class Scalar, int columns>
using NormShare = RowShare<Scalar, columns, 40>;
inline constexpr int rows_at_once = 2;

template <class Scalar, int columns>
__global__ void __launch_bounds__(NormShare<Scalar, columns>::threads)
    layer_norm_kernel(index rows, const Scalar* x, const float* weight, const float* bias, float epsilon,
                      float* statistics, Scalar* y) {
  using Share = NormShare<Scalar, columns>;
  auto* const room = reinterpret_cast<float*>(shared_memory());
  const index first = (static_cast<index>(blockIdx.x) * Share::teams + Share::team()) * rows_at_once;
  typename Share::Part part[rows_at_once];
  float mean[rows_at_once] = {}, scale[rows_at_once] = {};
  TESSERA_UNROLL
  for (int r = 0; r < rows_at_once; ++r)
    Share::load_part(first + r < rows ? x + (first + r) * columns : nullptr, part[r]);
  TESSERA_UNROLL
  for (int r = 0; r < rows_at_once; ++r) Share::for_values([&](int v, int i) { mean[r] += part[r][v][i]; });
  Share::sum(mean, room);
  TESSERA_UNROLL
  for (int r = 0; r < rows_at_once; ++r) {
    mean[r] /= columns;  // of a row of one value, that value exactly
    Share::for_values([&](int v, int i) {
      part[r][v][i] -= mean[r];
      if (Share::holds(v)) scale[r] += part[r][v][i] * part[r][v][i];
    });
  }
  Share::sum(scale, room);
  TESSERA_UNROLL
  for (int r = 0; r < rows_at_once; ++r) {
    scale[r] = rsqrtf(scale[r] / columns + epsilon);
    if (Share::column(0) != 0 || first + r >= rows) continue;
    const float both[2] = {mean[r], scale[r]};
    store<2>(statistics + (first + r) * 2, both);
  }
  TESSERA_UNROLL
  for (int v = 0; v < Share::vectors; ++v) {
    if (!Share::holds(v)) continue;
    float g[Share::width], b[Share::width];
    load<Share::width>(weight + Share::column(v), g);
    load<Share::width>(bias + Share::column(v), b);
    TESSERA_UNROLL
    for (int r = 0; r < rows_at_once; ++r) {
      TESSERA_UNROLL
      for (int i = 0; i < Share::width; ++i) part[r][v][i] = part[r][v][i] * scale[r] * g[i] + b[i];
    }
  }
  TESSERA_UNROLL
  for (int r = 0; r < rows_at_once; ++r)
    if (first + r < rows) Share::store_part(y + (first + r) * columns, part[r]);
}

// A lane keeps two sums for each of its columns beside its part of weight and of a row of x, dy and the residual.
template <class Scalar, int columns>
using NormGradientShare = RowShare<Scalar, columns, 48 / sizeof(Scalar)>;

// Rows whose sums for d_weight and d_bias one block makes. A function of the rows alone, so that bits do not depend on
// the device. The sums of a block are as many bytes as 1 to 2 rows of activations and are written and read once more,
// in the L2 cache: at 99 rows to a block, 2 % of what it moves. 100,864 rows (two views of 256 images, 197 tokens) are
// 1019 blocks, 7.7 for each of 132 multiprocessors, of which 4 or more are resident at a time.
[[nodiscard]] constexpr index norm_gradient_rows(index rows) {
  const index even = divide_up(rows, 1024);
  return even < 16 ? 16 : even > 128 ? 128 : even;
}

// partial (blocks x 2 x columns) receives every block's sums for d_weight, then d_bias.
template <class Scalar, int columns>
__global__ void __launch_bounds__(NormGradientShare<Scalar, columns>::threads)
    layer_norm_gradient_kernel(index rows, index block_rows, const Scalar* x, const float* weight,
                               const float* statistics, const Scalar* dy, const Scalar* residual, Scalar* dx,
                               float* partial) {
  using Share = NormGradientShare<Scalar, columns>;
  constexpr float share = 1.0f / columns;
  auto* const room = reinterpret_cast<float*>(shared_memory());
  const index begin = static_cast<index>(blockIdx.x) * block_rows;
  const index end = begin + block_rows < rows ? begin + block_rows : rows;
  typename Share::Part g, weight_sum = {}, bias_sum = {}, from, gradient, before;
  Share::load_part(weight, g);
  // All teams go round equally often: the sums of a team of several warps meet at the block's barrier.
  for (index row = begin + Share::team(); row - Share::team() < end; row += Share::teams) {
    const bool valid = row < end;
    float mean_and_scale[2] = {};
    Share::load_part(valid ? x + row * columns : nullptr, from);
    Share::load_part(valid ? dy + row * columns : nullptr, gradient);
    Share::load_part(valid && residual != nullptr ? residual + row * columns : nullptr, before);
    if (valid) load<2>(statistics + row * 2, mean_and_scale);
    const auto [mean, scale] = mean_and_scale;
    float along[2] = {};
    Share::for_values([&](int v, int i) {
      from[v][i] = (from[v][i] - mean) * scale;
      weight_sum[v][i] += gradient[v][i] * from[v][i];
      bias_sum[v][i] += gradient[v][i];
      gradient[v][i] *= g[v][i];
      along[0] += gradient[v][i];
      along[1] += gradient[v][i] * from[v][i];
    });
    Share::sum(along, room);
    const float along_one = share * along[0], along_x = share * along[1];
    Share::for_values(
        [&](int v, int i) { before[v][i] += scale * (gradient[v][i] - along_one - from[v][i] * along_x); });
    if (valid) Share::store_part(dx + row * columns, before);
  }

  float* const team_sums = room + Share::team() * 2 * columns;
  Share::store_part(team_sums, weight_sum);
  Share::store_part(team_sums + columns, bias_sum);
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < 2 * columns; c += Share::threads) {
    float sum = room[c];
    for (int team = 1; team < Share::teams; ++team) sum += room[team * 2 * columns + c];
    partial[static_cast<index>(blockIdx.x) * 2 * columns + c] = sum;
  }
}

// The pieces that a thread loads before it adds them up.
inline constexpr int sum_threads = 1024, sum_at_once = 8;

// d_weight and d_bias from the blocks' sums: a lane to a column, the pieces dealt out to the warps.
template <int columns>
__global__ void __launch_bounds__(sum_threads)
    sum_norm_gradients_kernel(index pieces, const float* partial, float* d_weight, float* d_bias) {
  constexpr int warps = sum_threads / warp_size;
  const int column = static_cast<int>(blockIdx.x * warp_size + threadIdx.x % warp_size);
  const bool valid = column < 2 * columns;
  float sum[1] = {};
  for (index first = threadIdx.x / warp_size; valid && first < pieces; first += sum_at_once * warps) {
    float some[sum_at_once];
    TESSERA_UNROLL
    for (int i = 0; i < sum_at_once; ++i)
      some[i] = first + i * warps < pieces ? partial[(first + i * warps) * 2 * columns + column] : 0;
    TESSERA_UNROLL
    for (int i = 0; i < sum_at_once; ++i) sum[0] += some[i];
  }
  sum_over_warps(sum, reinterpret_cast<float*>(shared_memory()));
  if (threadIdx.x >= warp_size || !valid) return;
  if (column < columns)
    d_weight[column] = sum[0];
  else
    d_bias[column - columns] = sum[0];
}

}  // namespace detail

template <class Scalar, int columns>
void layer_norm_forward(Backend<Scalar>& backend, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                        const Accumulator<Scalar>* bias, double epsilon, Rows<Accumulator<Scalar>, 2> statistics,
                        Rows<Scalar, columns> y) {
  using Share = detail::NormShare<Scalar, columns>;
  constexpr index room = Share::warps > 1 ? Share::threads / warp_size * detail::rows_at_once * sizeof(float) : 0;
  launch(backend, blocks_for(x.rows, Share::teams, detail::rows_at_once), Share::threads, room,
         detail::layer_norm_kernel<Scalar, columns>, x.rows, x.data, weight, bias, static_cast<float>(epsilon),
         statistics.data, y.data);
}

template <class Scalar, int columns>
void layer_norm_backward(Backend<Scalar>& backend, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                         Rows<const Accumulator<Scalar>, 2> statistics, Rows<const Scalar, columns> dy,
                         Rows<const Scalar, columns> residual, Rows<Scalar, columns> dx, Accumulator<Scalar>* d_weight,
                         Accumulator<Scalar>* d_bias) {
  using Share = detail::NormGradientShare<Scalar, columns>;
  constexpr index number = sizeof(float);
  const index block_rows = detail::norm_gradient_rows(x.rows), blocks = divide_up(x.rows, block_rows);
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  float* const partial = backend.arena().template take<float>(blocks * 2 * columns);
  launch(backend, dim3(static_cast<unsigned>(blocks)), Share::threads, Share::teams * 2 * columns * number,
         detail::layer_norm_gradient_kernel<Scalar, columns>, x.rows, block_rows, x.data, weight, statistics.data,
         dy.data, residual.data, dx.data, partial);
  launch(backend, blocks_for(2 * columns, warp_size), detail::sum_threads, detail::sum_threads * number,
         detail::sum_norm_gradients_kernel<columns>, blocks, partial, d_weight, d_bias);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
