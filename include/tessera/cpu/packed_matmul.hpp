// The library's own matrix product: panels of the right factor, packed once, and blocks of sums in registers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/micro_kernel.hpp"
#include "tessera/cpu/words.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// A row-major operand: `stride` scalars from one stored row to the next; transposed: the product uses its transpose.
template <class Scalar>
struct Operand {
  const Scalar* data;
  index stride;
  bool transposed = false;

  // The operand without its first rows, or without its first columns.
  [[nodiscard]] Operand from_row(index row) const {
    return {data + row * (transposed ? 1 : stride), stride, transposed};
  }
  [[nodiscard]] Operand from_column(index column) const {
    return {data + column * (transposed ? stride : 1), stride, transposed};
  }
};

// Panels of a right factor, packed once for many products: the base of policies that pack the weights of linear layers.
struct Panels {
  // A panel: panel_columns columns of a right factor with k rows, word by word, zeros beyond its width.
  template <class Scalar>
  static constexpr index panel_columns = MicroKernel<Scalar>::columns;
  template <class Scalar>
  [[nodiscard]] static constexpr index panel_size(index k) {
    using Kernel = MicroKernel<Scalar>;
    return divide_up(k, Kernel::word) * Kernel::columns * Kernel::word;
  }
  // to (panel_size scalars) = the first `width` columns of b, which has k rows.
  template <class Scalar>
  static void pack_panel(index k, index width, Operand<Scalar> b, Scalar* to) {
    pack<MicroKernel<Scalar>::columns>(k, width, b.data, b.transposed ? 1 : b.stride, b.transposed ? b.stride : 1, to);
  }

  // sums (m rows, `stride` apart, of `width` columns, rounded up to whole packs) = a (m x k) times a panel.
  template <class Scalar>
  static void multiply_panel(index m, index width, index k, Operand<Scalar> a, const Scalar* panel,
                             Accumulator<Scalar>* sums, index stride) {
    using Kernel = MicroKernel<Scalar>;
    Kernel::run(m, width, k / Kernel::word, a.data, a.stride, Kernel::word, panel, Kernel::columns * Kernel::word, sums,
                stride);
  }
  // True if multiply_panel can read `a` as it is stored: row after row, in whole words.
  template <class Scalar>
  [[nodiscard]] static bool reads_in_place(index k, Operand<Scalar> a) {
    return !a.transposed && k % MicroKernel<Scalar>::word == 0;
  }

 protected:
  // to[d / word][r][d % word] = from[d * step + r * line_step] for d < k and r < count; zeros in the rest of whole
  // words of `lines` lines. One of the two steps is 1.
  template <index lines, class Scalar>
  static void pack(index k, index count, const Scalar* from, index step, index line_step, Scalar* to) {
    constexpr index word = MicroKernel<Scalar>::word, line = lines * word;
    if (count < lines || k % word != 0) std::fill_n(to, divide_up(k, word) * line, Scalar{});
    if (line_step != 1)
      pack_along_depth<line>(k, count, from, line_step, to);
    else if (count == lines)
      pack_across<line>(k, std::integral_constant<index, lines>{}, from, step, to);
    else
      pack_across<line>(k, count, from, step, to);
  }
  template <index line, class Scalar, class Count>
  static void pack_across(index k, Count count, const Scalar* from, index step, Scalar* to) {
    constexpr index word = MicroKernel<Scalar>::word;
    index d = 0;
    for (; d + word <= k; d += word, to += line)
      if constexpr (word == 1)
        for (index r = 0; r < count; ++r) to[r] = from[d * step + r];
      else
        interleave<MicroKernel<Scalar>::rows>(count, from + d * step, from + (d + 1) * step, to);
    for (; d < k; ++d)
      for (index r = 0; r < count; ++r) to[r * word] = from[d * step + r];
  }
  // A short depth of all lines before the next: what is written stays in the first cache.
  template <index line, class Scalar>
  static void pack_along_depth(index k, index count, const Scalar* from, index line_step, Scalar* to) {
    constexpr index word = MicroKernel<Scalar>::word, depth = 16 * word;
    for (index first = 0; first < k; first += depth)
      for (index r = 0; r < count; ++r)
        for (index d = first; d < smaller(first + depth, k); ++d)
          to[d / word * line + r * word + d % word] = from[r * line_step + d];
  }
};

// Always there; any scalar, bf16 with sums in float. A sum goes along the depth in pieces of `depth_piece` words, or
// whole where the caller packs.
struct PackedMatmul : Panels {
  static constexpr const char* name = "packed";
  template <class Scalar>
  static constexpr bool supports = true;

  // A block: block_rows rows of a left factor with k columns, packed as a panel is.
  template <class Scalar>
  static constexpr index block_rows = MicroKernel<Scalar>::rows;
  template <class Scalar>
  [[nodiscard]] static constexpr index block_size(index k) {
    using Kernel = MicroKernel<Scalar>;
    return divide_up(k, Kernel::word) * Kernel::rows * Kernel::word;
  }
  // to (block_size scalars) = the first `height` rows of a, which has k columns.
  template <class Scalar>
  static void pack_block(index k, index height, Operand<Scalar> a, Scalar* to) {
    pack<MicroKernel<Scalar>::rows>(k, height, a.data, a.transposed ? a.stride : 1, a.transposed ? 1 : a.stride, to);
  }
  // sums (height rows, `stride` apart, of `width` columns, rounded up to whole packs) = columns [first, last) of a
  // block times those rows of a panel. first is a whole number of words.
  template <class Scalar>
  static void multiply_block(index height, index width, index first, index last, const Scalar* block,
                             const Scalar* panel, Accumulator<Scalar>* sums, index stride) {
    using Kernel = MicroKernel<Scalar>;
    Kernel::run(height, width, divide_up(last - first, Kernel::word), block + first * Kernel::rows, Kernel::word,
                Kernel::rows * Kernel::word, panel + first * Kernel::columns, Kernel::columns * Kernel::word, sums,
                stride);
  }

  template <class Scalar>
  static void multiply(index m, index n, index k, Operand<Scalar> a, Operand<Scalar> b, Accumulator<Scalar>* c,
                       index c_stride, bool accumulate) {
    constexpr index word = MicroKernel<Scalar>::word, most = depth_piece * word;
    const index depth = divide_up(divide_up(k, larger(divide_up(k, most), index{1})), word) * word;
    for (index row = 0; row < m; row += rows_piece)
      for (index first = 0; first < k; first += depth)
        multiply_piece(smaller(m - row, rows_piece), n, smaller(k - first, depth), a.from_row(row).from_column(first),
                       b.from_row(first), c + row * c_stride, c_stride, accumulate || first > 0);
  }

 private:
  static constexpr index rows_piece = 96, depth_piece = 256;  // 96 KiB of floats: in the second cache

  // One piece, packed on the stack but for a left factor that can be read as it is stored.
  template <class Scalar>
  static void multiply_piece(index m, index n, index k, Operand<Scalar> a, Operand<Scalar> b, Accumulator<Scalar>* c,
                             index c_stride, bool add) {
    using Kernel = MicroKernel<Scalar>;
    constexpr index word = Kernel::word, block = depth_piece * word * Kernel::rows;
    alignas(64) Scalar left[rows_piece / Kernel::rows * block];
    alignas(64) Scalar panel[depth_piece * word * Kernel::columns];
    alignas(64) Accumulator<Scalar> sums[Kernel::rows * Kernel::columns];
    const bool in_place = reads_in_place(k, a);
    if (!in_place) pack_rows(m, k, a, left);
    for (index column = 0; column < n; column += Kernel::columns) {
      const index width = smaller(n - column, Kernel::columns);
      pack_panel(k, width, b.from_column(column), panel);
      for (index row = 0; row < m; row += Kernel::rows) {
        const index count = smaller(m - row, index{Kernel::rows}), depth = divide_up(k, word);
        if (in_place)
          Kernel::run(count, width, depth, a.data + row * a.stride, a.stride, word, panel, Kernel::columns * word, sums,
                      Kernel::columns);
        else
          Kernel::run(count, width, depth, left + row / Kernel::rows * block, word, Kernel::rows * word, panel,
                      Kernel::columns * word, sums, Kernel::columns);
        for (index r = 0; r < count; ++r) {
          Accumulator<Scalar>* const to = c + (row + r) * c_stride + column;
          const Accumulator<Scalar>* const from = sums + r * Kernel::columns;
          if (add)
            simd::transform(
                width, to, [](auto x, auto y) { return x + y; }, to, from);
          else
            simd::transform(
                width, to, [](auto x) { return x; }, from);
        }
      }
    }
  }

  // The rows of a in blocks of Kernel::rows, each packed as a panel is. A short depth of all blocks before the next,
  // since rows of a transposed operand lie far apart.
  template <class Scalar>
  static void pack_rows(index m, index k, Operand<Scalar> a, Scalar* to) {
    using Kernel = MicroKernel<Scalar>;
    constexpr index depth = 4 * Kernel::word, block = depth_piece * Kernel::word * Kernel::rows;
    for (index first = 0; first < k; first += depth)
      for (index row = 0; row < m; row += Kernel::rows)
        pack<Kernel::rows>(smaller(k - first, depth), smaller(m - row, index{Kernel::rows}),
                           a.from_row(row).from_column(first).data, a.transposed ? a.stride : 1,
                           a.transposed ? 1 : a.stride, to + row / Kernel::rows * block + first * Kernel::rows);
  }
};

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
