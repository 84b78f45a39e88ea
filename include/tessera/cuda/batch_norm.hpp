// Batch normalization over the rows of each column; every view is a batch of its own.
//
// A pass over the rows sums within blocks, a small kernel adds the blocks' sums up in double, and a second pass uses
// them: rows are read twice and written once. Blocks lie over rows and columns in the same way in all passes.
#pragma once

#include <cmath>

#include "tessera/core/context.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

template <int count, class Scalar>
[[nodiscard]] __device__ inline Vector<Scalar, count> vector_at(const Scalar* from) {
  return *reinterpret_cast<const Vector<Scalar, count>*>(from);
}

inline constexpr int batch_norm_threads = 256;

// The division of rows among blocks: every view has `chunks` chunks of `chunk` rows (the last may have fewer), and each
// chunk has `tiles` blocks.
struct RowChunks {
  index views, rows, chunk, chunks;  // rows: of a view
  int tiles;

  [[nodiscard]] dim3 grid() const { return dim3(static_cast<unsigned>(chunks * tiles), static_cast<unsigned>(views)); }
};

// A block's threads: `across` vectors of columns side by side, `down` rows at once; `tiles` blocks side by side.
template <class Scalar, int columns>
struct ColumnTile {
  static constexpr int widest = 64, rows_of_thread = 8;
  static constexpr int width = vector_width<Scalar>(columns), vectors = columns / width;
  static constexpr int tiles = (vectors + widest - 1) / widest, across = (vectors + tiles - 1) / tiles;
  static constexpr int span = across * width, down = batch_norm_threads / across;
  static constexpr index shared_bytes = 2 * down * span * static_cast<index>(sizeof(float));

  // For passes without partial sums: short blocks.
  static RowChunks many(index views, index all_rows) {
    constexpr index chunk = rows_of_thread * down;
    const index rows = all_rows / views;
    return {views, rows, chunk, divide_up(rows, chunk), tiles};
  }
  // For sums, of which every block writes one: as many blocks as a large device runs at a time.
  static RowChunks few(index views, index all_rows) {
    constexpr index blocks = 512;
    RowChunks cut = many(views, all_rows);
    const index most = divide_up(blocks, tiles * views);
    if (cut.chunks <= most) return cut;
    cut.chunk = divide_up(divide_up(cut.rows, most), down) * down;
    cut.chunks = divide_up(cut.rows, cut.chunk);
    return cut;
  }
};

// The part of the running thread: `width` columns from `column` on, and of the chunk's rows [first, last) every down-th
// from `row` on; no rows if the tile has no place for the thread.
template <class Tile, int columns>
struct TilePlace {
  int across, down, tile, column;
  index view, chunk, first, last, row;

  __device__ TilePlace(index rows, index rows_of_chunk, unsigned block, unsigned block_of_views)
      : across(static_cast<int>(threadIdx.x) % Tile::across),
        down(static_cast<int>(threadIdx.x) / Tile::across),
        tile(static_cast<int>(block % Tile::tiles)),
        column((tile * Tile::across + across) * Tile::width),
        view(block_of_views),
        chunk(block / Tile::tiles),
        first(view * rows + chunk * rows_of_chunk),
        last(first + rows_of_chunk < (view + 1) * rows ? first + rows_of_chunk : (view + 1) * rows),
        row(down < Tile::down && column < columns ? first + down : last) {}

  [[nodiscard]] __device__ bool idle() const { return row >= last; }

  // Calls use(row, fetch(row)) for the thread's rows; fetches `at_once` of them before it uses the first.
  template <int at_once, class Fetch, class Use>
  __device__ void for_rows(Fetch&& fetch, Use&& use) const {
    for (index r = row; r < last; r += at_once * Tile::down) {
      decltype(fetch(r)) fetched[at_once];
      TESSERA_UNROLL
      for (int k = 0; k < at_once; ++k)
        if (r + k * Tile::down < last) fetched[k] = fetch(r + k * Tile::down);
      TESSERA_UNROLL
      for (int k = 0; k < at_once; ++k)
        if (r + k * Tile::down < last) use(r + k * Tile::down, fetched[k]);
    }
  }
};

struct TwoSums {
  double first, second;
};

// partial (views x chunks x 2 x columns) receives the block's two sums for its columns, after
// finish(column, sums of the threads).
template <class Tile, int columns, class Place, class Finish>
__device__ inline void store_partial(const Place& place, const float (&first)[Tile::width],
                                     const float (&second)[Tile::width], double* partial, Finish&& finish) {
  constexpr int half = Tile::down * Tile::span;
  auto* const room = reinterpret_cast<float*>(shared_memory());
  if (place.down < Tile::down) {
    float* const to = room + place.down * Tile::span + place.across * Tile::width;
    store<Tile::width>(to, first);
    store<Tile::width>(to + half, second);
  }
  __syncthreads();
  partial += (place.view * (gridDim.x / Tile::tiles) + place.chunk) * 2 * columns;
  for (int at = static_cast<int>(threadIdx.x); at < Tile::span; at += batch_norm_threads) {
    const int column = place.tile * Tile::span + at;
    if (column >= columns) return;
    TwoSums sums{0, 0};
    for (int down = 0; down < Tile::down; ++down) {
      sums.first += static_cast<double>(room[down * Tile::span + at]);
      sums.second += static_cast<double>(room[half + down * Tile::span + at]);
    }
    sums = finish(column, sums);
    partial[column] = sums.first;
    partial[columns + column] = sums.second;
  }
}

// Partial sums of x and x^2. Within the chunk they are taken about its first row, in float, so that a mean far from
// zero takes no digits from the variance.
template <class Scalar, int columns>
__global__ void __launch_bounds__(batch_norm_threads, 4)
    batch_norm_moments_kernel(index rows, index chunk, const Scalar* x, double* partial) {
  using Tile = ColumnTile<Scalar, columns>;
  const TilePlace<Tile, columns> place(rows, chunk, blockIdx.x, blockIdx.y);
  float sum[Tile::width] = {}, squares[Tile::width] = {};
  if (!place.idle()) {
    float center[Tile::width];
    load<Tile::width>(x + place.first * columns + place.column, center);
    place.template for_rows<4>([&](index row) { return vector_at<Tile::width>(x + row * columns + place.column); },
                               [&](index, const auto& values) {
                                 TESSERA_UNROLL
                                 for (int i = 0; i < Tile::width; ++i) {
                                   const float off = static_cast<float>(values.values[i]) - center[i];
                                   sum[i] += off;
                                   squares[i] += off * off;
                                 }
                               });
  }
  store_partial<Tile, columns>(place, sum, squares, partial, [&](int column, TwoSums about_center) {
    const double center = static_cast<double>(static_cast<float>(x[place.first * columns + column]));
    const double all = static_cast<double>(place.last - place.first) * center;
    return TwoSums{about_center.first + all, about_center.second + center * (2 * about_center.first + all)};
  });
}

// Partial sums of dy and dy x^.
template <class Scalar, int columns>
__global__ void batch_norm_gradient_sums_kernel(index rows, index chunk, const Scalar* x, const float* statistics,
                                                const Scalar* dy, double* partial) {
  using Tile = ColumnTile<Scalar, columns>;
  struct Fetched {
    Vector<Scalar, Tile::width> x, dy;
  };
  const TilePlace<Tile, columns> place(rows, chunk, blockIdx.x, blockIdx.y);
  float along_one[Tile::width] = {}, along_x[Tile::width] = {};
  if (!place.idle()) {
    float mean[Tile::width], scale[Tile::width];
    statistics += place.view * 2 * columns + place.column;
    load<Tile::width>(statistics, mean);
    load<Tile::width>(statistics + columns, scale);
    place.template for_rows<4>(
        [&](index row) {
          const index at = row * columns + place.column;
          return Fetched{vector_at<Tile::width>(x + at), vector_at<Tile::width>(dy + at)};
        },
        [&](index, const Fetched& values) {
          TESSERA_UNROLL
          for (int i = 0; i < Tile::width; ++i) {
            const float d = static_cast<float>(values.dy.values[i]);
            along_one[i] += d;
            along_x[i] += d * ((static_cast<float>(values.x.values[i]) - mean[i]) * scale[i]);
          }
        });
  }
  store_partial<Tile, columns>(place, along_one, along_x, partial, [](int, TwoSums sums) { return sums; });
}

inline constexpr int totals_threads = 512;

// sums (views x (2 columns + 1)) receives the sums over the chunks and, in the last column, the number of rows. If
// d_bias is wanted, it receives the first half's sums over the views, and d_weight the second half's. A block takes 32
// columns, and its warps every sixteenth chunk.
template <class Value>
__global__ void batch_norm_totals_kernel(index views, index chunks, index rows, index columns, const double* partial,
                                         double* sums, Value* d_weight, Value* d_bias) {
  constexpr int warps = totals_threads / warp_size;
  auto* const room = reinterpret_cast<double*>(shared_memory());
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const index column = static_cast<index>(blockIdx.x) * warp_size + lane;
  double over_views = 0;
  for (index view = 0; view < views; ++view, partial += chunks * 2 * columns, sums += 2 * columns + 1) {
    double sum = 0;
    if (column < 2 * columns)
      for (index chunk = warp; chunk < chunks; chunk += warps) sum += partial[chunk * 2 * columns + column];
    room[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0) {
      for (int other = 1; other < warps; ++other) sum += room[other * warp_size + lane];
      if (column < 2 * columns) sums[column] = sum;
      if (column == 0) sums[2 * columns] = static_cast<double>(rows);
      over_views += sum;
    }
    __syncthreads();
  }
  if (d_bias == nullptr || warp > 0 || column >= 2 * columns) return;
  if (column < columns)
    d_bias[column] = static_cast<Value>(over_views);
  else
    d_weight[column - columns] = static_cast<Value>(over_views);
}

// From sums of x and x^2 to mean and 1 / sqrt(variance + epsilon); the running ones follow, view after view. Fewer than
// two rows on all ranks, which the host does not see, give NaN.
template <class Value>
__global__ void batch_norm_statistics_kernel(index views, index columns, const double* sums, double epsilon,
                                             double momentum, Value* running_mean, Value* running_variance,
                                             Value* batches, Value* statistics) {
  const index column = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  Value mean_now = running_mean[column], variance_now = running_variance[column];
  const auto follow = [momentum](Value& running, double value) {
    if (!std::isfinite(value)) return;  // training can go on behind a step that is refused
    running = static_cast<Value>((1.0 - momentum) * static_cast<double>(running) + momentum * value);
  };
  for (index view = 0; view < views; ++view, sums += 2 * columns + 1, statistics += 2 * columns) {
    const double rows = sums[2 * columns], mean = sums[column] / rows;
    const double off = sums[columns + column] / rows - mean * mean;
    const double variance = rows < 2 ? NAN : off < 0 ? 0 : off;
    statistics[column] = static_cast<Value>(mean);
    statistics[columns + column] = static_cast<Value>(1.0 / std::sqrt(variance + epsilon));
    follow(mean_now, mean);
    follow(variance_now, variance * rows / (rows - 1));
  }
  running_mean[column] = mean_now;
  running_variance[column] = variance_now;
  if (column == 0) *batches += static_cast<Value>(views);
}

// The running mean and variance as statistics of one view.
template <class Value>
__global__ void batch_norm_running_kernel(index columns, double epsilon, const Value* running_mean,
                                          const Value* running_variance, Value* statistics) {
  const index column = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  statistics[column] = running_mean[column];
  statistics[columns + column] =
      static_cast<Value>(1.0 / std::sqrt(static_cast<double>(running_variance[column]) + epsilon));
}

// Blocks of a second pass take the rows in the opposite order: the second-level cache may still hold those that the
// first pass read last.
template <class Tile, int columns>
[[nodiscard]] __device__ inline TilePlace<Tile, columns> place_of_second_pass(index rows, index chunk) {
  return {rows, chunk, gridDim.x - 1 - blockIdx.x, gridDim.y - 1 - blockIdx.y};
}

// y = (x - mean) scale weight + bias, with statistics (views x 2 columns).
template <class Scalar, int columns>
__global__ void batch_norm_normalize_kernel(index rows, index chunk, const Scalar* x, const float* statistics,
                                            const float* weight, const float* bias, Scalar* y) {
  using Tile = ColumnTile<Scalar, columns>;
  const auto place = place_of_second_pass<Tile, columns>(rows, chunk);
  if (place.idle()) return;
  float mean[Tile::width], factor[Tile::width], shift[Tile::width] = {};
  statistics += place.view * 2 * columns + place.column;
  load<Tile::width>(statistics, mean);
  load<Tile::width>(statistics + columns, factor);
  if (weight != nullptr) {
    float by[Tile::width];
    load<Tile::width>(weight + place.column, by);
    load<Tile::width>(bias + place.column, shift);
    TESSERA_UNROLL
    for (int i = 0; i < Tile::width; ++i) factor[i] *= by[i];
  }
  place.template for_rows<4>([&](index row) { return vector_at<Tile::width>(x + row * columns + place.column); },
                             [&](index row, const auto& values) {
                               float result[Tile::width];
                               TESSERA_UNROLL
                               for (int i = 0; i < Tile::width; ++i)
                                 result[i] = (static_cast<float>(values.values[i]) - mean[i]) * factor[i] + shift[i];
                               store<Tile::width>(y + row * columns + place.column, result);
                             });
}

// dx = residual + weight scale (dy - mean(dy) - x^ mean(dy x^)), with sums (views x (2 columns + 1)) over the rows.
template <class Scalar, int columns>
__global__ void batch_norm_gradient_kernel(index rows, index chunk, const Scalar* x, const float* weight,
                                           const float* statistics, const double* sums, const Scalar* dy,
                                           const Scalar* residual, Scalar* dx) {
  using Tile = ColumnTile<Scalar, columns>;
  struct Fetched {
    Vector<Scalar, Tile::width> x, dy, residual;
  };
  const auto place = place_of_second_pass<Tile, columns>(rows, chunk);
  if (place.idle()) return;
  float mean[Tile::width], factor[Tile::width], along_one[Tile::width], along_x[Tile::width];
  statistics += place.view * 2 * columns + place.column;
  load<Tile::width>(statistics, mean);
  load<Tile::width>(statistics + columns, factor);
  sums += place.view * (2 * columns + 1);
  const double share = 1.0 / sums[2 * columns];
  TESSERA_UNROLL
  for (int i = 0; i < Tile::width; ++i) {
    along_one[i] = static_cast<float>(sums[place.column + i] * share);
    along_x[i] = static_cast<float>(sums[columns + place.column + i] * share) * factor[i];
    if (weight != nullptr) factor[i] *= weight[place.column + i];
  }
  place.template for_rows<2>(
      [&](index row) {
        const index at = row * columns + place.column;
        Fetched fetched;
        fetched.x = vector_at<Tile::width>(x + at);
        fetched.dy = vector_at<Tile::width>(dy + at);
        if (residual != nullptr) fetched.residual = vector_at<Tile::width>(residual + at);
        return fetched;
      },
      [&](index row, const Fetched& values) {
        float result[Tile::width];
        TESSERA_UNROLL
        for (int i = 0; i < Tile::width; ++i) {
          const float off = static_cast<float>(values.x.values[i]) - mean[i];
          result[i] = factor[i] * (static_cast<float>(values.dy.values[i]) - along_one[i] - off * along_x[i]);
          if (residual != nullptr) result[i] += static_cast<float>(values.residual.values[i]);
        }
        store<Tile::width>(dx + row * columns + place.column, result);
      });
}

// Adds up partial sums over chunks, and the result over all ranks. d_weight and d_bias, which may be null, receive this
// rank's.
template <class Context>
void batch_norm_totals(Context& context, const RowChunks& cut, index columns, const double* partial, double* sums,
                       float* d_weight, float* d_bias) {
  launch(context.backend, dim3(static_cast<unsigned>(divide_up(2 * columns, warp_size))), totals_threads,
         totals_threads * static_cast<index>(sizeof(double)), batch_norm_totals_kernel<float>, cut.views, cut.chunks,
         cut.rows, columns, partial, sums, d_weight, d_bias);
  if (!context.backend.planning())
    context.communicator.all_reduce(context.backend, sums, cut.views * (2 * columns + 1));
}

}  // namespace detail

template <class Context, class Scalar, int columns>
void batch_norm_forward(Context& context, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                        const Accumulator<Scalar>* bias, double epsilon, double momentum,
                        Accumulator<Scalar>* running_mean, Accumulator<Scalar>* running_variance,
                        Accumulator<Scalar>* batches, Rows<Accumulator<Scalar>, 2 * columns> statistics,
                        Rows<Scalar, columns> y) {
  using Tile = detail::ColumnTile<Scalar, columns>;
  auto& backend = context.backend;
  const detail::RowChunks few = Tile::few(context.views, x.rows), many = Tile::many(context.views, x.rows);
  if (context.communicator.size() == 1 && few.rows < 2)
    fail("BatchNorm needs at least 2 rows per view to take statistics, but the batch has {}; use a larger batch",
         few.rows);
  const auto frame = context.frame();
  double* const partial = backend.arena().template take<double>(few.views * few.chunks * 2 * columns);
  double* const sums = backend.arena().template take<double>(few.views * (2 * columns + 1));
  launch(backend, few.grid(), detail::batch_norm_threads, Tile::shared_bytes,
         detail::batch_norm_moments_kernel<Scalar, columns>, few.rows, few.chunk, x.data, partial);
  detail::batch_norm_totals(context, few, columns, partial, sums, nullptr, nullptr);
  launch(backend, blocks_for(columns, detail::totals_threads), detail::totals_threads, 0,
         detail::batch_norm_statistics_kernel<float>, few.views, columns, sums, epsilon, momentum, running_mean,
         running_variance, batches, statistics.data);
  launch(backend, many.grid(), detail::batch_norm_threads, 0, detail::batch_norm_normalize_kernel<Scalar, columns>,
         many.rows, many.chunk, x.data, statistics.data, weight, bias, y.data);
}

template <class Scalar, int columns>
void batch_norm_evaluate(Backend<Scalar>& backend, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                         const Accumulator<Scalar>* bias, double epsilon, const Accumulator<Scalar>* running_mean,
                         const Accumulator<Scalar>* running_variance, Rows<Scalar, columns> y) {
  using Tile = detail::ColumnTile<Scalar, columns>;
  const detail::RowChunks many = Tile::many(1, x.rows);
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  float* const statistics = backend.arena().template take<float>(2 * columns);
  launch(backend, blocks_for(columns, detail::totals_threads), detail::totals_threads, 0,
         detail::batch_norm_running_kernel<float>, columns, epsilon, running_mean, running_variance, statistics);
  launch(backend, many.grid(), detail::batch_norm_threads, 0, detail::batch_norm_normalize_kernel<Scalar, columns>,
         many.rows, many.chunk, x.data, statistics, weight, bias, y.data);
}

template <class Context, class Scalar, int columns>
void batch_norm_backward(Context& context, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                         Rows<const Accumulator<Scalar>, 2 * columns> statistics, Rows<const Scalar, columns> dy,
                         Rows<const Scalar, columns> residual, Rows<Scalar, columns> dx, Accumulator<Scalar>* d_weight,
                         Accumulator<Scalar>* d_bias) {
  using Tile = detail::ColumnTile<Scalar, columns>;
  auto& backend = context.backend;
  const detail::RowChunks few = Tile::few(context.views, x.rows), many = Tile::many(context.views, x.rows);
  const auto frame = context.frame();
  double* const partial = backend.arena().template take<double>(few.views * few.chunks * 2 * columns);
  double* const sums = backend.arena().template take<double>(few.views * (2 * columns + 1));
  launch(backend, few.grid(), detail::batch_norm_threads, Tile::shared_bytes,
         detail::batch_norm_gradient_sums_kernel<Scalar, columns>, few.rows, few.chunk, x.data, statistics.data,
         dy.data, partial);
  detail::batch_norm_totals(context, few, columns, partial, sums, d_weight, d_bias);
  launch(backend, many.grid(), detail::batch_norm_threads, 0, detail::batch_norm_gradient_kernel<Scalar, columns>,
         many.rows, many.chunk, x.data, weight, statistics.data, sums, dy.data, residual.data, dx.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
