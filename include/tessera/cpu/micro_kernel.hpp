// The innermost part of a matrix product: a block of the result that stays in registers while the depth is walked.
#pragma once

#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/words.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// One block of a product, in registers: `rows` x `packs` sums, as many as 32 registers of AVX-512 hold, or 16 of AVX
// and SSE. Operands are read in words along the depth (words.hpp). A depth that is no whole number of words is filled
// with zeros.
template <class Scalar>
struct MicroKernel {
  using Sum = Accumulator<Scalar>;
  static constexpr index lanes = simd::lanes<Sum>;
  static constexpr int rows = simd::bytes == 64 ? 8 : 4, packs = 3;  // of a block
  static constexpr index columns = packs * lanes;
  static constexpr index word = Words<Scalar>::scalars;

  // sums = left right, in the first `count` rows, `stride` apart, and the packs that hold the first `width` columns. A
  // sum goes along the depth word by word, so that it does not depend on count, width, or where its block begins.
  // depth: words. left: word d of row r is at left[r * left_row + d * left_step]. right: word d of column 0 is at
  // right[d * right_step], and the others of the packs follow.
  static void run(index count, index width, index depth, const Scalar* left, index left_row, index left_step,
                  const Scalar* right, index right_step, Sum* sums, index stride) {
    const auto run_rows = [&]<int block_rows>(std::integral_constant<int, block_rows>, index first) {
      const Scalar* const from = left + first * left_row;
      Sum* const to = sums + first * stride;
      if (width > 2 * lanes)
        block<block_rows, 3>(depth, from, left_row, left_step, right, right_step, to, stride);
      else if (width > lanes)
        block<block_rows, 2>(depth, from, left_row, left_step, right, right_step, to, stride);
      else
        block<block_rows, 1>(depth, from, left_row, left_step, right, right_step, to, stride);
    };
    index row = 0;
    for (; row + rows <= count; row += rows) run_rows(std::integral_constant<int, rows>{}, row);
    for (; row < count; ++row) run_rows(std::integral_constant<int, 1>{}, row);
  }

 private:
  template <int block_rows, int block_packs>
  [[gnu::noinline]] static void block(index depth, const Scalar* left, index left_row, index left_step,
                                      const Scalar* right, index right_step, Sum* to, index stride) {
    simd::Pack<Sum> sums[block_rows][block_packs];
    TESSERA_UNROLL
    for (int r = 0; r < block_rows; ++r) {
      TESSERA_UNROLL
      for (int v = 0; v < block_packs; ++v) sums[r][v] = simd::Pack<Sum>{};
    }
    for (index d = 0; d < depth; ++d) {
      typename Words<Scalar>::Pack line[block_packs];
      TESSERA_UNROLL
      for (int v = 0; v < block_packs; ++v) Words<Scalar>::read(right + d * right_step + v * lanes * word, line[v]);
      TESSERA_UNROLL
      for (int r = 0; r < block_rows; ++r) {
        typename Words<Scalar>::Word factor;
        Words<Scalar>::read(left + r * left_row + d * left_step, factor);
        TESSERA_UNROLL
        for (int v = 0; v < block_packs; ++v) Words<Scalar>::add_product(sums[r][v], factor, line[v]);
      }
    }
    TESSERA_UNROLL
    for (int r = 0; r < block_rows; ++r) {
      TESSERA_UNROLL
      for (int v = 0; v < block_packs; ++v) simd::store<Sum>(to + r * stride + v * lanes, sums[r][v]);
    }
  }
};

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
