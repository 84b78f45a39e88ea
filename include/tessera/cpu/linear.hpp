// Linear maps y = x W^T + b with the element-wise work that follows them, done while a tile is in cache.
#pragma once

#include "tessera/core/simd.hpp"
#include "tessera/cpu/activation.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// Rows whose number of columns is no constant: a product gains nothing from constants, and what works on these is
// compiled once for all layers.
template <class Scalar>
struct Matrix {
  Scalar* data;
  index rows, columns;

  template <int count>
  Matrix(Rows<Scalar, count> x) : data(x.data), rows(x.rows), columns(count) {}

  [[nodiscard]] Scalar* at(index row, index column) const { return data + row * columns + column; }
};

inline constexpr index tile_rows = 256, tile_columns = 768;

// Cuts a (rows x columns) result into tiles and calls body(row, rows, column, columns) for each, in parallel.
template <class Scalar, class Matmul, class Body>
void for_tiles(Backend<Scalar, Matmul>& backend, index rows, index columns, Body&& body) {
  const index down = divide_up(rows, tile_rows), across = divide_up(columns, tile_columns);
  backend.for_pieces(down * across, 1, [&](index first, index last, int) {
    for (index tile = first; tile < last; ++tile) {
      const index row = tile / across * tile_rows, column = tile % across * tile_columns;
      body(row, row + tile_rows < rows ? tile_rows : rows - row, column,
           column + tile_columns < columns ? tile_columns : columns - column);
    }
  });
}

// y = x w, then epilogue(row, column, columns) for every row of every tile. w: x.columns x y.columns.
template <class Scalar, class Matmul, class Epilogue>
void multiply(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w, Matrix<Scalar> y,
              Epilogue&& epilogue) {
  for_tiles(backend, y.rows, y.columns, [&](index row, index rows, index column, index columns) {
    const Operand<Scalar> part{w.data + column * (w.transposed ? w.stride : 1), w.stride, w.transposed};
    Matmul::multiply(rows, columns, x.columns, Operand<Scalar>{x.at(row, 0), x.columns}, part, y.at(row, column),
                     y.columns, false);
    for (index r = row; r < row + rows; ++r) epilogue(r, column, columns);
  });
}

// y = x w + bias + residual; bias and residual may be null.
template <class Scalar, class Matmul>
void multiply_add(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w, const Scalar* bias,
                  Matrix<const Scalar> residual, Matrix<Scalar> y) {
  multiply(backend, x, w, y, [&](index row, index column, index columns) {
    Scalar* const to = y.at(row, column);
    const auto add = [](auto a, auto... more) { return (a + ... + more); };
    if (bias != nullptr && residual.data != nullptr)
      simd::transform(columns, to, add, to, bias + column, residual.at(row, column));
    else if (bias != nullptr)
      simd::transform(columns, to, add, to, bias + column);
    else if (residual.data != nullptr)
      simd::transform(columns, to, add, to, residual.at(row, column));
  });
}

// before = x w + bias, y = Activation(before).
template <class Activation, class Scalar, class Matmul>
void multiply_activate(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w, const Scalar* bias,
                       Matrix<Scalar> before, Matrix<Scalar> y) {
  multiply(backend, x, w, before, [&](index row, index column, index columns) {
    Scalar* const to = before.at(row, column);
    simd::transform(
        columns, to, [](auto a, auto b) { return a + b; }, to, bias + column);
    simd::transform(
        columns, y.at(row, column), [](auto a) { return Activation::value(a); }, to);
  });
}

// d_before = (dy w) * Activation'(before), activated = Activation(before).
template <class Activation, class Scalar, class Matmul>
void multiply_activation_gradient(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> dy, Operand<Scalar> w,
                                  Matrix<const Scalar> before, Matrix<Scalar> d_before, Matrix<Scalar> activated) {
  multiply(backend, dy, w, d_before, [&](index row, index column, index columns) {
    activation_backward<Activation>(columns, before.at(row, column), d_before.at(row, column),
                                    activated.at(row, column));
  });
}

// sums[c] = sum over rows of x[r][c]; sums is assigned.
template <class Scalar, class Matmul>
void column_sums(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Scalar* sums) {
  constexpr index grain = 512;
  const index pieces = divide_up(x.rows, grain);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Scalar* const partial = backend.arena().template take<Scalar>(pieces * x.columns);
  const auto add_rows = [columns = x.columns](const Scalar* rows, index count, Scalar* to) {
    simd::transform(
        columns, to, [](auto a) { return a; }, rows);
    index row = 1;
    for (; row + 4 <= count; row += 4)
      simd::transform(
          columns, to, [](auto s, auto a, auto b, auto c, auto d) { return s + ((a + b) + (c + d)); }, to,
          rows + row * columns, rows + (row + 1) * columns, rows + (row + 2) * columns, rows + (row + 3) * columns);
    for (; row < count; ++row)
      simd::transform(
          columns, to, [](auto a, auto b) { return a + b; }, to, rows + row * columns);
  };
  backend.for_pieces(x.rows, grain, [&](index first, index last, int) {
    add_rows(x.at(first, 0), last - first, partial + first / grain * x.columns);
  });
  backend.compute([&] { add_rows(partial, pieces, sums); });
}

// d_weight = dy^T x. Tiles and their order of summation depend on the shapes alone.
template <class Scalar, class Matmul>
void weight_gradient(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Matrix<const Scalar> dy,
                     Scalar* d_weight) {
  constexpr index tile = 96;
  const index in = x.columns, out = dy.columns, across = divide_up(out, tile), wanted = divide_up(16, across);
  const index slice = divide_up(x.rows, wanted) < 512 ? 512 : divide_up(x.rows, wanted);
  const index slices = divide_up(x.rows, slice);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Scalar* const partial = backend.arena().template take<Scalar>((slices - 1) * out * in);
  backend.for_pieces(slices * across, 1, [&](index first, index last, int) {
    for (index piece = first; piece < last; ++piece) {
      const index from = piece / across * slice, column = piece % across * tile;
      const index rows = from + slice < x.rows ? slice : x.rows - from;
      Scalar* const to = piece < across ? d_weight : partial + (piece / across - 1) * out * in;
      Matmul::multiply(column + tile < out ? tile : out - column, in, rows,
                       Operand<Scalar>{dy.at(from, column), out, true}, Operand<Scalar>{x.at(from, 0), in},
                       to + column * in, in, false);
    }
  });
  backend.for_pieces(out, row_grain(in), [&](index first, index last, int) {
    for (index s = 0; s + 1 < slices; ++s)
      simd::transform((last - first) * in, d_weight + first * in, [](auto a, auto b) { return a + b; },
                      d_weight + first * in, partial + s * out * in + first * in);
  });
}

}  // namespace detail

template <class Scalar, class Matmul, int in, int out>
void linear_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, const Scalar* weight,
                    const Scalar* bias, Rows<const Scalar, out> residual, Rows<Scalar, out> y) {
  detail::multiply_add<Scalar>(backend, x, {weight, in, true}, bias, residual, y);
}

template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, const Scalar* weight,
                               const Scalar* bias, Rows<Scalar, out> before, Rows<Scalar, out> y) {
  detail::multiply_activate<Activation, Scalar>(backend, x, {weight, in, true}, bias, before, y);
}

template <class Scalar, class Matmul, int in, int out>
void linear_input_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, const Scalar* weight,
                           Rows<Scalar, in> dx) {
  detail::multiply_add<Scalar>(backend, dy, {weight, in}, nullptr, Rows<const Scalar, in>{}, dx);
}

template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, const Scalar* weight,
                                Rows<const Scalar, in> before, Rows<Scalar, in> d_before, Rows<Scalar, in> activated) {
  detail::multiply_activation_gradient<Activation, Scalar>(backend, dy, {weight, in}, before, d_before, activated);
}

template <class Scalar, class Matmul, int in, int out>
void linear_weight_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, Rows<const Scalar, out> dy,
                            Scalar* d_weight, Scalar* d_bias) {
  if (d_bias != nullptr || backend.planning()) detail::column_sums<Scalar>(backend, dy, d_bias);
  detail::weight_gradient<Scalar>(backend, x, dy, d_weight);
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
