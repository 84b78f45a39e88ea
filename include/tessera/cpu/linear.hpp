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

inline constexpr index tile_columns = 768, sum_columns = 48;  // columns of a tile; multiples of sum_columns
inline constexpr index packed_bytes = index{4} << 20;         // at most this much of a weight is packed at a time
inline constexpr index gradient_bytes = index{1} << 20;       // and of both factors of a weight gradient

template <class Matmul, class Scalar>
inline constexpr bool packs_panels = requires {
  Matmul::template panel_columns<Scalar>;
};
template <class Matmul, class Scalar>
inline constexpr bool packs_blocks = requires {
  Matmul::template block_rows<Scalar>;
};

// done(row, column, columns, sums) for every row of x w, a part of a row at a time: sums are those of its columns from
// `column` on. multiply_tile(row, rows, column, columns, sums) assigns the sums of a tile, of the columns from `start`
// on. Tiles are worked on in parallel, and what follows a product is done while its tile is in cache. Panels are small
// enough for tiles whose sums, rows of x and panel fill half a MiB; a library packs for every tile, and takes larger
// ones.
template <class Scalar, class Matmul, class MultiplyTile, class Done>
void for_tiles(Backend<Scalar, Matmul>& backend, index rows, index start, index columns, MultiplyTile&& multiply_tile,
               Done&& done) {
  using Sum = Accumulator<Scalar>;
  constexpr index most_rows = 256, most = (packs_panels<Matmul, Scalar> ? 64 : most_rows) * tile_columns;
  const index stride = smaller(divide_up(columns, sum_columns) * sum_columns, tile_columns);
  const index tile_rows = smaller(smaller(most / stride, most_rows), rows), size = tile_rows * stride;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Sum* const room = backend.arena().template take<Sum>(backend.pool().threads() * size);
  if (rows == 0) return;
  const index down = divide_up(rows, tile_rows), across = divide_up(columns, tile_columns);
  backend.for_pieces(down * across, 1, [&](index tile, index, int worker) {
    const index row = tile / across * tile_rows, column = start + tile % across * tile_columns;
    const index in_rows = smaller(rows - row, tile_rows), in_columns = smaller(start + columns - column, tile_columns);
    Sum* const sums = room + worker * size;
    multiply_tile(row, in_rows, column, in_columns, sums, stride);
    for (index r = 0; r < in_rows; ++r) done(row + r, column, in_columns, static_cast<const Sum*>(sums) + r * stride);
  });
}

// done(...) for every row of x w, as in for_tiles. w: x.columns x columns.
template <class Scalar, class Matmul, class Done>
void multiply(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w, index columns, Done&& done) {
  const auto rows_of_x = [&](index row) { return Operand<Scalar>{x.at(row, 0), x.columns}; };
  const auto by_calls = [&](index row, index rows, index column, index in_tile, Accumulator<Scalar>* sums,
                            index stride) {
    Matmul::multiply(rows, in_tile, x.columns, rows_of_x(row), w.from_column(column), sums, stride, false);
  };
  if constexpr (!packs_panels<Matmul, Scalar>) {
    for_tiles(backend, x.rows, 0, columns, by_calls, done);
  } else {
    if (!Matmul::reads_in_place(x.columns, rows_of_x(0))) return for_tiles(backend, x.rows, 0, columns, by_calls, done);
    // The weight is packed for all rows, some panels of it at a time.
    constexpr index width = Matmul::template panel_columns<Scalar>;
    static_assert(sum_columns % width == 0 && tile_columns % sum_columns == 0);
    const index size = Matmul::template panel_size<Scalar>(x.columns);
    const index most = larger(packed_bytes / (size * static_cast<index>(sizeof(Scalar))), index{1}) * width;
    const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
    Scalar* const panels = backend.arena().template take<Scalar>(divide_up(smaller(columns, most), width) * size);
    for (index start = 0; start < columns; start += most) {
      const index some = smaller(columns - start, most);
      backend.for_pieces(some, width, [&](index first, index last, int) {
        Matmul::pack_panel(x.columns, last - first, w.from_column(start + first), panels + first / width * size);
      });
      const auto by_panels = [&](index row, index rows, index column, index in_tile, Accumulator<Scalar>* sums,
                                 index stride) {
        for (index at = 0; at < in_tile; at += width)
          Matmul::multiply_panel(rows, smaller(in_tile - at, width), x.columns, rows_of_x(row),
                                 panels + (column - start + at) / width * size, sums + at, stride);
      };
      for_tiles(backend, x.rows, start, some, by_panels, done);
    }
  }
}

// y = x w + bias + residual; bias and residual may be null.
template <class Scalar, class Matmul>
void multiply_add(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w,
                  const Accumulator<Scalar>* bias, Matrix<const Scalar> residual, Matrix<Scalar> y) {
  multiply(backend, x, w, y.columns, [&](index row, index column, index columns, const Accumulator<Scalar>* sums) {
    Scalar* const to = y.at(row, column);
    const auto add = [](auto a, auto... more) { return (a + ... + more); };
    if (bias != nullptr && residual.data != nullptr)
      simd::transform(columns, to, add, sums, bias + column, residual.at(row, column));
    else if (bias != nullptr)
      simd::transform(columns, to, add, sums, bias + column);
    else if (residual.data != nullptr)
      simd::transform(columns, to, add, sums, residual.at(row, column));
    else
      simd::transform(columns, to, add, sums);
  });
}

// before = x w + bias, y = Activation(before).
template <class Activation, class Scalar, class Matmul>
void multiply_activate(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Operand<Scalar> w,
                       const Accumulator<Scalar>* bias, Matrix<Scalar> before, Matrix<Scalar> y) {
  multiply(backend, x, w, y.columns, [&](index row, index column, index columns, const Accumulator<Scalar>* sums) {
    Scalar* const to = before.at(row, column);
    simd::transform(
        columns, to, [](auto a, auto b) { return a + b; }, sums, bias + column);
    simd::transform(
        columns, y.at(row, column), [](auto a) { return Activation::value(a); }, to);
  });
}

// d_before = (dy w) * Activation'(before), activated = Activation(before).
template <class Activation, class Scalar, class Matmul>
void multiply_activation_gradient(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> dy, Operand<Scalar> w,
                                  Matrix<const Scalar> before, Matrix<Scalar> d_before, Matrix<Scalar> activated) {
  multiply(backend, dy, w, d_before.columns,
           [&](index row, index column, index columns, const Accumulator<Scalar>* sums) {
             activation_backward<Activation>(columns, before.at(row, column), sums, d_before.at(row, column),
                                             activated.at(row, column));
           });
}

// sums[c] = sum over rows of x[r][c]; sums is assigned.
template <class Scalar, class Matmul>
void column_sums(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Accumulator<Scalar>* sums) {
  constexpr index grain = 512;
  const index pieces = divide_up(x.rows, grain);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  using Sum = Accumulator<Scalar>;
  Sum* const partial = backend.arena().template take<Sum>(pieces * x.columns);
  const auto add_rows = [columns = x.columns](const auto* rows, index count, Sum* to) {
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
  backend.compute([&] { add_rows(static_cast<const Sum*>(partial), pieces, sums); });
}

// The factors of d_weight = dy^T x by a policy that packs, some rows at a time, and shared by all tiles of d_weight.
// The order of summation depends on the shapes alone.
template <class Matmul, class Scalar>
struct PackedRows {
  using Sum = Accumulator<Scalar>;
  static constexpr index width = Matmul::template panel_columns<Scalar>, height = Matmul::template block_rows<Scalar>;
  static constexpr index tile = 12 * height, group = 6 * height;  // columns of dy: of a tile, and packed together
  static constexpr index depth = 2048 / index{sizeof(Scalar)};    // rows that a block of sums adds at a time

  Matrix<const Scalar> x, dy;
  index panels = divide_up(x.columns, width), blocks = divide_up(dy.columns, height);
  index groups = divide_up(dy.columns, group), tiles = divide_up(dy.columns, tile);
  index row_bytes = (panels * width + blocks * height) * static_cast<index>(sizeof(Scalar));
  index most = smaller(larger(gradient_bytes / row_bytes / depth, index{1}) * depth, x.rows);  // rows at a time
  index panel_size = Matmul::template panel_size<Scalar>(most);
  index block_size = Matmul::template block_size<Scalar>(most);
  Scalar *packed_x = nullptr, *packed_dy = nullptr;

  // Packs a panel of x, or behind those a group of dy's blocks: of rows [from, from + rows).
  void pack(index from, index rows, index piece) const {
    if (piece < panels) {
      const index column = piece * width;
      Matmul::pack_panel(rows, smaller(x.columns - column, width), Operand<Scalar>{x.at(from, column), x.columns},
                         packed_x + piece * panel_size);
      return;
    }
    constexpr index step = 32;
    const index start = (piece - panels) * group, end = smaller(start + group, dy.columns);
    for (index first = 0; first < rows; first += step)
      for (index column = start; column < end; column += height)
        Matmul::pack_block(smaller(rows - first, step), smaller(end - column, height),
                           Operand<Scalar>{dy.at(from + first, column), dy.columns, true},
                           packed_dy + column / height * block_size + first * height);
  }

  // Assigns the products of the packed rows to a tile of d_weight, or adds them.
  void multiply(index rows, index piece, bool add, Sum* d_weight) const {
    const index panel = piece / tiles, start = piece % tiles * tile, end = smaller(start + tile, dy.columns);
    for (index first = 0; first < rows; first += depth)
      for (index row = start; row < end; row += height)
        multiply_block(first, smaller(first + depth, rows), row, panel, add || first > 0, d_weight);
  }

 private:
  void multiply_block(index first, index last, index row, index panel, bool add, Sum* d_weight) const {
    alignas(64) Sum sums[height * width];
    const index column = panel * width, columns = smaller(x.columns - column, width);
    const index count = smaller(dy.columns - row, height);
    Matmul::multiply_block(count, columns, first, last, packed_dy + row / height * block_size,
                           packed_x + panel * panel_size, sums, width);
    for (index r = 0; r < count; ++r) {
      Sum* const to = d_weight + (row + r) * x.columns + column;
      const Sum* const from = sums + r * width;
      if (add)
        simd::transform(
            columns, to, [](auto a, auto b) { return a + b; }, to, from);
      else
        simd::transform(
            columns, to, [](auto a) { return a; }, from);
    }
  }
};

template <class Scalar, class Matmul>
void packed_weight_gradient(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Matrix<const Scalar> dy,
                            Accumulator<Scalar>* d_weight) {
  PackedRows<Matmul, Scalar> packed{x, dy};
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  packed.packed_x = backend.arena().template take<Scalar>(packed.panels * packed.panel_size);
  packed.packed_dy = backend.arena().template take<Scalar>(packed.blocks * packed.block_size);
  for (index from = 0; from < x.rows; from += packed.most) {
    const index rows = smaller(x.rows - from, packed.most);
    backend.for_pieces(packed.panels + packed.groups, 1,
                       [&](index piece, index, int) { packed.pack(from, rows, piece); });
    backend.for_pieces(packed.panels * packed.tiles, 1,
                       [&](index piece, index, int) { packed.multiply(rows, piece, from > 0, d_weight); });
  }
}

// d_weight = dy^T x. Tiles and their order of summation depend on the shapes alone.
template <class Scalar, class Matmul>
void weight_gradient(Backend<Scalar, Matmul>& backend, Matrix<const Scalar> x, Matrix<const Scalar> dy,
                     Accumulator<Scalar>* d_weight) {
  if constexpr (packs_blocks<Matmul, Scalar>) return packed_weight_gradient(backend, x, dy, d_weight);
  using Sum = Accumulator<Scalar>;
  constexpr index tile = 96;
  const index in = x.columns, out = dy.columns, across = divide_up(out, tile), wanted = divide_up(16, across);
  const index slice = divide_up(x.rows, wanted) < 512 ? 512 : divide_up(x.rows, wanted);
  const index slices = divide_up(x.rows, slice);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Sum* const partial = backend.arena().template take<Sum>((slices - 1) * out * in);
  backend.for_pieces(slices * across, 1, [&](index first, index last, int) {
    for (index piece = first; piece < last; ++piece) {
      const index from = piece / across * slice, column = piece % across * tile;
      const index rows = from + slice < x.rows ? slice : x.rows - from;
      Sum* const to = piece < across ? d_weight : partial + (piece / across - 1) * out * in;
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
void linear_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, GivenParameter<Scalar> weight,
                    GivenParameter<Scalar> bias, Rows<const Scalar, out> residual, Rows<Scalar, out> y) {
  detail::multiply_add<Scalar>(backend, x, {product_operand(weight), in, true}, bias, residual, y);
}

template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x,
                               GivenParameter<Scalar> weight, GivenParameter<Scalar> bias, Rows<Scalar, out> before,
                               Rows<Scalar, out> y) {
  detail::multiply_activate<Activation, Scalar>(backend, x, {product_operand(weight), in, true}, bias, before, y);
}

template <class Scalar, class Matmul, int in, int out>
void linear_input_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy, GivenParameter<Scalar> weight,
                           Rows<Scalar, in> dx) {
  detail::multiply_add<Scalar>(backend, dy, {product_operand(weight), in}, nullptr, Rows<const Scalar, in>{}, dx);
}

template <class Activation, class Scalar, class Matmul, int in, int out>
void linear_activation_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, out> dy,
                                GivenParameter<Scalar> weight, Rows<const Scalar, in> before, Rows<Scalar, in> d_before,
                                Rows<Scalar, in> activated, Accumulator<Scalar>* d_bias) {
  detail::multiply_activation_gradient<Activation, Scalar>(backend, dy, {product_operand(weight), in}, before, d_before,
                                                           activated);
  detail::column_sums<Scalar>(backend, Rows<const Scalar, in>(d_before), d_bias);
}

template <class Scalar, class Matmul, int in, int out>
void linear_weight_gradient(Backend<Scalar, Matmul>& backend, Rows<const Scalar, in> x, Rows<const Scalar, out> dy,
                            Accumulator<Scalar>* d_weight, Accumulator<Scalar>* d_bias) {
  if (d_bias != nullptr || backend.planning()) detail::column_sums<Scalar>(backend, dy, d_bias);
  detail::weight_gradient<Scalar>(backend, x, dy, d_weight);
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
