// Position tables for another grid of patches.
#pragma once

#include <cstring>

#include "tessera/core/resample.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <Grid from, Grid to, class Scalar, class Matmul, int width>
void resample_positions(Backend<Scalar, Matmul>& backend, Rows<const Accumulator<Scalar>, width> table, double extra,
                        Rows<Accumulator<Scalar>, width> y) {
  using Sum = Accumulator<Scalar>;
  const auto vertical = cubic_taps<Sum, from.rows, to.rows>(extra);
  const auto horizontal = cubic_taps<Sum, from.columns, to.columns>(extra);
  const index leading = table.rows - from.size();
  for_rows(backend, y.rows, 16 * width, [&](index row) {
    if (row < leading) {
      std::memcpy(y.row(row), table.row(row), width * sizeof(Sum));
      return;
    }
    const index r = (row - leading) / to.columns, c = (row - leading) % to.columns;
    std::memset(y.row(row), 0, width * sizeof(Sum));
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const Sum weight = vertical.weight[r][i] * horizontal.weight[c][j];
        simd::transform(
            index{width}, y.row(row), [weight](auto sum, auto value) { return sum + weight * value; }, y.row(row),
            table.row(leading + vertical.source[r][i] * from.columns + horizontal.source[c][j]));
      }
  });
}

template <Grid from, Grid to, class Scalar, class Matmul, int width>
void resample_positions_backward(Backend<Scalar, Matmul>& backend, Rows<const Accumulator<Scalar>, width> dy,
                                 double extra, Rows<Accumulator<Scalar>, width> d_table) {
  using Sum = Accumulator<Scalar>;
  const auto vertical = cubic_taps<Sum, from.rows, to.rows>(extra);
  const auto horizontal = cubic_taps<Sum, from.columns, to.columns>(extra);
  const index leading = d_table.rows - from.size();
  for_rows(backend, d_table.rows, 16 * width, [&](index row) {
    if (row < leading) {
      std::memcpy(d_table.row(row), dy.row(row), width * sizeof(Sum));
      return;
    }
    const int cell = static_cast<int>(row - leading);
    std::memset(d_table.row(row), 0, width * sizeof(Sum));
    for (int r = 0; r < to.rows; ++r) {
      const Sum down = vertical.weight_of(r, cell / from.columns);
      for (int c = 0; c < to.columns && down != 0; ++c) {
        const Sum weight = down * horizontal.weight_of(c, cell % from.columns);
        if (weight == 0) continue;
        simd::transform(
            index{width}, d_table.row(row), [weight](auto sum, auto value) { return sum + weight * value; },
            d_table.row(row), dy.row(leading + r * to.columns + c));
      }
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
