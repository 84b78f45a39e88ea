// Position tables for another grid of patches.
#pragma once

#include "tessera/core/resample.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int position_threads = 128;

// The interpolation of a grid, handed to a kernel by value. Rows in front of the grid are `leading`.
template <int from_rows, int from_columns, int to_rows, int to_columns>
struct GridTaps {
  CubicTaps<float, to_rows> vertical;
  CubicTaps<float, to_columns> horizontal;
  int leading;
};

// A block to a row of y, a thread to every position_threads-th of its values.
template <int from_rows, int from_columns, int to_rows, int to_columns, int width>
__global__ void __launch_bounds__(position_threads)
    resample_positions_kernel(GridTaps<from_rows, from_columns, to_rows, to_columns> taps, const float* table,
                              float* y) {
  const int row = static_cast<int>(blockIdx.x), cell = row - taps.leading;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += position_threads) {
    float sum = 0;
    if (cell < 0) {
      sum = table[row * width + column];
    } else {
      const int r = cell / to_columns, c = cell % to_columns;
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
          sum +=
              taps.vertical.weight[r][i] * taps.horizontal.weight[c][j] *
              table[(taps.leading + taps.vertical.source[r][i] * from_columns + taps.horizontal.source[c][j]) * width +
                    column];
    }
    y[row * width + column] = sum;
  }
}

// A block to a row of d_table.
template <int from_rows, int from_columns, int to_rows, int to_columns, int width>
__global__ void __launch_bounds__(position_threads)
    resample_positions_gradient_kernel(GridTaps<from_rows, from_columns, to_rows, to_columns> taps, const float* dy,
                                       float* d_table) {
  const int row = static_cast<int>(blockIdx.x), cell = row - taps.leading;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += position_threads) {
    float sum = cell < 0 ? dy[row * width + column] : 0;
    for (int r = 0; r < to_rows && cell >= 0; ++r) {
      const float down = taps.vertical.weight_of(r, cell / from_columns);
      for (int c = 0; c < to_columns && down != 0; ++c) {
        const float weight = down * taps.horizontal.weight_of(c, cell % from_columns);
        if (weight != 0) sum += weight * dy[(taps.leading + r * to_columns + c) * width + column];
      }
    }
    d_table[row * width + column] = sum;
  }
}

template <Grid from, Grid to>
[[nodiscard]] GridTaps<from.rows, from.columns, to.rows, to.columns> grid_taps(double extra, index table_rows) {
  return {cubic_taps<float, from.rows, to.rows>(extra), cubic_taps<float, from.columns, to.columns>(extra),
          static_cast<int>(table_rows) - from.size()};
}

}  // namespace detail

template <Grid from, Grid to, class Scalar, int width>
void resample_positions(Backend<Scalar>& backend, Rows<const float, width> table, double extra, Rows<float, width> y) {
  launch(backend, dim3(static_cast<unsigned>(y.rows)), detail::position_threads, 0,
         detail::resample_positions_kernel<from.rows, from.columns, to.rows, to.columns, width>,
         detail::grid_taps<from, to>(extra, table.rows), table.data, y.data);
}

template <Grid from, Grid to, class Scalar, int width>
void resample_positions_backward(Backend<Scalar>& backend, Rows<const float, width> dy, double extra,
                                 Rows<float, width> d_table) {
  launch(backend, dim3(static_cast<unsigned>(d_table.rows)), detail::position_threads, 0,
         detail::resample_positions_gradient_kernel<from.rows, from.columns, to.rows, to.columns, width>,
         detail::grid_taps<from, to>(extra, d_table.rows), dy.data, d_table.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
