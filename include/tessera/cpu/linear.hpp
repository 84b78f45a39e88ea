// Linear maps y = x W^T + b with the element-wise work that follows them, done while a tile is in cache.
#pragma once

#include "tessera/core/simd.hpp"
#include "tessera/cpu/activation.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera::inline TESSERA_ABI::cpu {

namespace detail {

inline constexpr index tile_rows = 256, tile_columns = 768;

// Cuts an (rows x columns) result into tiles and calls body(row, rows, column, columns) for each, in parallel.
template <class Body>
void for_tiles(ThreadPool& pool, index rows, index columns, Body&& body) {
  const index down = divide_up(rows, tile_rows), across = divide_up(columns, tile_columns);
  pool.for_pieces(down * across, 1, [&](index first, index last, int) {
    for (index tile = first; tile < last; ++tile) {
      const index row = tile / across * tile_rows, column = tile % across * tile_columns;
      body(row, row + tile_rows < rows ? tile_rows : rows - row, column,
           column + tile_columns < columns ? tile_columns : columns - column);
    }
  });
}

// y = x W^T, then epilogue(row, column, columns) for every row of every tile.
template <class Scalar, class Matmul, int in, int out, class Epilogue>
void multiply_transposed(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, const Scalar* weight,
                         Rows<Scalar, out> y, Epilogue&& epilogue) {
  for_tiles(backend.pool(), x.rows, out, [&](index row, index rows, index column, index columns) {
    Matmul::multiply(rows, columns, index{in}, Operand<Scalar>{x.row(row), in},
                     Operand<Scalar>{weight + column * in, in, true}, y.row(row) + column, index{out}, false);
    for (index r = row; r < row + rows; ++r) epilogue(r, column, columns);
  });
}

// dx = dy W, then epilogue(row, column, columns) for every row of every tile.
template <class Scalar, class Matmul, int in, int out, class Epilogue>
void multiply(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, const Scalar* weight, Rows<Scalar, in> dx,
              Epilogue&& epilogue) {
  for_tiles(backend.pool(), dy.rows, in, [&](index row, index rows, index column, index columns) {
    Matmul::multiply(rows, columns, index{out}, Operand<Scalar>{dy.row(row), out}, Operand<Scalar>{weight + column, in},
                     dx.row(row) + column, index{in}, false);
    for (index r = row; r < row + rows; ++r) epilogue(r, column, columns);
  });
}

inline constexpr auto no_epilogue = [](index, index, index) {};

}  // namespace detail

// y = x W^T + bias + residual. x (rows x in), weight (out x in), bias (out) or null, residual like y or null.
template <class Scalar, class Matmul, int in, int out>
void linear_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, const Scalar* weight,
                    const Scalar* bias, Rows<const Scalar, out> residual, Rows<Scalar, out> y) {
  if (backend.planning()) return;
  using simd::Pack;
  if (bias == nullptr && !residual.wanted())
    return detail::multiply_transposed(backend, x, weight, y, detail::no_epilogue);
  if (!residual.wanted())
    return detail::multiply_transposed(backend, x, weight, y, [&](index row, index column, index columns) {
      Scalar* const to = y.row(row) + column;
      simd::transform(
          columns, to, [](auto a, auto b) { return a + b; }, to, bias + column);
    });
  detail::multiply_transposed(backend, x, weight, y, [&](index row, index column, index columns) {
    Scalar* const to = y.row(row) + column;
    simd::transform(
        columns, to, [](auto a, auto b, auto c) { return a + b + c; }, to, bias + column, residual.row(row) + column);
  });
}

// before = x W^T + bias, y = Activation(before).
template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, const Scalar* weight,
                               const Scalar* bias, Rows<Scalar, out> before, Rows<Scalar, out> y) {
  if (backend.planning()) return;
  detail::multiply_transposed(backend, x, weight, before, [&](index row, index column, index columns) {
    Scalar* const to = before.row(row) + column;
    simd::transform(
        columns, to, [](auto a, auto b) { return a + b; }, to, bias + column);
    simd::transform(
        columns, y.row(row) + column, [](auto a) { return Activation::value(a); }, to);
  });
}

// dx = dy W. dy (rows x out), weight (out x in).
template <class Scalar, class Matmul, int in, int out>
void linear_input_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, const Scalar* weight,
                           Rows<Scalar, in> dx) {
  if (backend.planning()) return;
  detail::multiply(backend, dy, weight, dx, detail::no_epilogue);
}

// The gradient through y = Activation(before) W^T: d_before = (dy W) * Activation'(before), and Activation(before)
// once more, which the weight's gradient needs and forward did not keep.
template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, const Scalar* weight,
                                Rows<const Scalar, in> before, Rows<Scalar, in> d_before, Rows<Scalar, in> activated) {
  if (backend.planning()) return;
  detail::multiply(backend, dy, weight, d_before, [&](index row, index column, index columns) {
    detail::activation_backward<Activation>(columns, before.row(row) + column, d_before.row(row) + column,
                                            activated.row(row) + column);
  });
}

// sums[c] = sum over rows of x[r][c]; sums is assigned.
template <class Scalar, class Matmul, int columns>
void column_sums(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x, Scalar* sums) {
  constexpr index grain = 512;
  const index pieces = divide_up(x.rows, grain);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Scalar* const partial = backend.arena().template take<Scalar>(pieces * columns);
  if (backend.planning()) return;
  const auto add = [](auto a, auto b) { return a + b; };
  const auto add_rows = [&](const Scalar* rows, index count, Scalar* to) {
    simd::transform(
        index{columns}, to, [](auto a) { return a; }, rows);
    index row = 1;
    for (; row + 4 <= count; row += 4)
      simd::transform(
          index{columns}, to, [](auto s, auto a, auto b, auto c, auto d) { return s + ((a + b) + (c + d)); }, to,
          rows + row * columns, rows + (row + 1) * columns, rows + (row + 2) * columns, rows + (row + 3) * columns);
    for (; row < count; ++row) simd::transform(index{columns}, to, add, to, rows + row * columns);
  };
  backend.pool().for_pieces(x.rows, grain, [&](index first, index last, int) {
    add_rows(x.row(first), last - first, partial + first / grain * columns);
  });
  add_rows(partial, pieces, sums);
}

// dW = dy^T x (out x in) and, unless d_bias is null, d_bias = column sums of dy. Both are assigned, not added to.
// Tiles and their order of summation depend on the shapes alone.
template <class Scalar, class Matmul, int in, int out>
void linear_weight_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, Rows<const Scalar, out> dy,
                            Scalar* d_weight, Scalar* d_bias) {
  constexpr index tile = 96, across = divide_up(out, tile), wanted = divide_up(16, across);
  const index slice = divide_up(x.rows, wanted) < 512 ? 512 : divide_up(x.rows, wanted);
  const index slices = divide_up(x.rows, slice);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Scalar* const partial = backend.arena().template take<Scalar>((slices - 1) * out * in);
  if (d_bias != nullptr || backend.planning()) column_sums(backend, dy, d_bias);
  if (backend.planning()) return;
  backend.pool().for_pieces(slices * across, 1, [&](index first, index last, int) {
    for (index piece = first; piece < last; ++piece) {
      const index from = piece / across * slice, column = piece % across * tile;
      const index rows = from + slice < x.rows ? slice : x.rows - from;
      Scalar* const to = piece < across ? d_weight : partial + (piece / across - 1) * out * in;
      Matmul::multiply(column + tile < out ? tile : out - column, index{in}, rows,
                       Operand<Scalar>{dy.row(from) + column, out, true}, Operand<Scalar>{x.row(from), in},
                       to + column * in, index{in}, false);
    }
  });
  backend.pool().for_pieces(index{out}, row_grain(in), [&](index first, index last, int) {
    for (index s = 0; s + 1 < slices; ++s)
      simd::transform((last - first) * in, d_weight + first * in, [](auto a, auto b) { return a + b; },
                      d_weight + first * in, partial + s * out * in + first * in);
  });
}

}  // namespace tessera::inline TESSERA_ABI::cpu
