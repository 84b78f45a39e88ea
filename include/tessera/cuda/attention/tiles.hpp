// Tiles of bf16 operands in registers and shared memory, and their products by matrix instructions.
#pragma once

#include <cstdint>

#include "tessera/cuda/attention/head.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/ptx.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::detail {

// Operands are tiles of 16 rows. Left ones are in registers, a[k] holding columns [16k, 16k + 16); right ones are rows
// of shared memory, `pitch` values apart; sums[n] holds columns [8n, 8n + 8) as ptx::mma_16x8x16 returns them: of a
// thread's four values, two are in row `lane / 4` and two eight rows below. Values beyond a matrix's edge are zero.

// Picks 4, 5 or 6 warps per block so that the last round of tiles leaves the fewest warps idle; fewer if there are
// fewer tiles. With 6 warps, two blocks fit on a multiprocessor with 168 registers per thread.
constexpr int balanced_warps(int tiles) {
  int best = tiles < 6 ? tiles : 6;
  for (int warps = best - 1; warps >= 4; --warps)
    if ((warps - tiles % warps) % warps < (best - tiles % best) % best) best = warps;
  return best;
}

template <int tokens_, int heads_, int width_>
struct TiledHead : HeadShape<tokens_, heads_, width_> {
  using HeadShape<tokens_, heads_, width_>::tokens, HeadShape<tokens_, heads_, width_>::dim;

  static constexpr int depth = (dim + 15) / 16 * 16;
  static constexpr int pitch = depth + 8;  // an odd number of 16 bytes: eight rows lie in different banks
  static constexpr int tiles = (tokens + 15) / 16, rows = 16 * tiles;
  static constexpr index row_bytes = pitch * static_cast<index>(sizeof(bf16));

  // Keys are worked on 64 at a time.
  static constexpr int step = 64, steps = (rows + step - 1) / step, last_keys = rows - (steps - 1) * step;

  // Forward, if two heads' keys and values fit into a multiprocessor's shared memory: a block to a head, which takes 16
  // queries to a warp at a time. Otherwise keys and values are streamed through two buffers past a block's queries, 32
  // to a warp where registers allow it, which halves what is read of shared memory. 197 tokens of 64: 4 x 197^2 x 64
  // = 10 MFLOP on 101 KB of device memory, 60 KB shared, two blocks of 7 warps with 128 registers.
  static constexpr index resident_bytes = 2 * rows * row_bytes, streamed_bytes = 4 * step * row_bytes;
  static constexpr bool resident = resident_bytes <= 96 * 1024;
  static constexpr int turns = (tiles + 7) / 8, resident_warps = (tiles + turns - 1) / turns;
  static constexpr int height = depth <= 64 ? 2 : 1, streamed_warps = height == 2 ? 4 : balanced_warps(tiles);
  static constexpr int queries_of_block = 16 * height * streamed_warps;
  static constexpr index query_blocks = divide_up(tokens, queries_of_block);

  // Backward in one kernel, where the device has the shared memory: a block to a head, 16 keys to a warp, and gradients
  // of scores handed over in shared memory for those of queries: 5 products, and nothing is read twice. Otherwise in
  // one kernel over queries and one over keys, each past streams of the other: 7 products. 197 tokens of 64: 25 MFLOP
  // on 202 KB of device memory, 152 KB shared, one block of 13 warps with 128 registers.
  static constexpr bool whole = tiles <= 13 && depth <= 64;
  static constexpr bool keeps_keys = tiles <= 12 || depth <= 32;  // in registers, of which 13 warps have 128
  static constexpr int chunk = rows < step ? rows : step, chunks = (tokens + chunk - 1) / chunk;
  static constexpr int chunk_pitch = chunk + 8, chunk_buffers = chunks > 1 ? 2 : 1;
  static constexpr index whole_bytes = 3 * rows * row_bytes +
                                       chunk_buffers * rows * chunk_pitch * static_cast<index>(sizeof(bf16)) +
                                       2 * rows * static_cast<index>(sizeof(float));
  static constexpr int key_warps = balanced_warps(tiles);
  static constexpr index key_blocks = divide_up(tiles, key_warps);
  static constexpr index chunks_bytes = 4 * chunk * (row_bytes + static_cast<index>(sizeof(float)));
};

// The first query of the running warp, where query_blocks blocks share a head.
template <class Head>
__device__ int first_query() {
  return static_cast<int>(blockIdx.x % Head::query_blocks) * Head::queries_of_block +
         16 * Head::height * warp_of_block();
}

// Of the four lanes that share a row.
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(whole_warp, value, 1);
  return value + __shfl_xor_sync(whole_warp, value, 2);
}
__device__ inline float quad_largest(float value) {
  value = fmaxf(value, __shfl_xor_sync(whole_warp, value, 1));
  return fmaxf(value, __shfl_xor_sync(whole_warp, value, 2));
}

// values[i] of the quad's lane t goes to values[t] of its lane i: from pairs of columns that matrix instructions want
// to 16 bytes that memory wants, and back.
__device__ inline void transpose_quad(std::uint32_t (&values)[4]) {
  TESSERA_UNROLL
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane_of_warp() & bit) != 0;
    TESSERA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int low = bit == 1 ? 2 * i : i, high = low + bit;
      const std::uint32_t other = __shfl_xor_sync(whole_warp, upper ? values[low] : values[high], bit);
      (upper ? values[low] : values[high]) = other;
    }
  }
}

// Columns c and c + 1 of a row of `dim` values.
template <int dim>
__device__ std::uint32_t load_pair(const bf16* row, int c) {
  if constexpr (dim % 2 == 0) return c < dim ? *reinterpret_cast<const std::uint32_t*>(row + c) : 0u;
  const std::uint32_t low = c < dim ? row[c].bits : 0u, high = c + 1 < dim ? row[c + 1].bits : 0u;
  return high << 16 | low;
}
template <int dim>
__device__ void store_pair(bf16* row, int c, std::uint32_t pair) {
  if constexpr (dim % 2 == 0) {
    if (c < dim) *reinterpret_cast<std::uint32_t*>(row + c) = pair;
  } else {
    if (c < dim) row[c].bits = static_cast<std::uint16_t>(pair);
    if (c + 1 < dim) row[c + 1].bits = static_cast<std::uint16_t>(pair >> 16);
  }
}

// A left operand from 16 rows of global memory, `stride` apart, of which `there` exist.
template <int dim, int slices>
__device__ void load_left(const bf16* from, int stride, int there, std::uint32_t (&a)[slices][4]) {
  constexpr int blocks = 2 * slices, vectors = dim % 8 == 0 ? blocks / 4 * 4 : 0;
  const int row = lane_of_warp() / 4, t = lane_of_warp() % 4;
  TESSERA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const bf16* const at = from + (row + 8 * half) * stride;
    const bool exists = row + 8 * half < there;
    TESSERA_UNROLL
    for (int block = 0; block < vectors; block += 4) {
      Vector<std::uint32_t, 4> vector{};
      if (exists && 8 * (block + t) < dim)
        vector = *reinterpret_cast<const Vector<std::uint32_t, 4>*>(at + 8 * (block + t));
      transpose_quad(vector.values);
      TESSERA_UNROLL
      for (int i = 0; i < 4; ++i) a[(block + i) / 2][half + i % 2 * 2] = vector.values[i];
    }
    TESSERA_UNROLL
    for (int block = vectors; block < blocks; ++block)
      a[block / 2][half + block % 2 * 2] = exists ? load_pair<dim>(at, 8 * block + 2 * t) : 0u;
  }
}

// A left operand from 16 rows of shared memory.
template <int pitch, int slices>
__device__ void load_left(const bf16* from, std::uint32_t (&a)[slices][4]) {
  const int lane = lane_of_warp();
  TESSERA_UNROLL
  for (int k = 0; k < slices; ++k) ptx::load_matrices(a[k], from + lane % 16 * pitch + 16 * k + lane / 16 * 8);
}

// Sums times `factor` (one for each half of the rows) to columns [first, ...) of 16 rows of a head in global memory.
// Addresses count vectors, for the reason given at store().
template <int dim, int blocks>
__device__ void store_sums(const float (&sums)[blocks][4], const float (&factor)[2], bf16* to, int stride, int there,
                           int first = 0) {
  constexpr int vectors = dim % 8 == 0 ? blocks / 4 * 4 : 0;
  const int row = lane_of_warp() / 4, t = lane_of_warp() % 4;
  TESSERA_UNROLL
  for (int half = 0; half < 2; ++half) {
    bf16* const at = to + (row + 8 * half) * stride;
    const bool exists = row + 8 * half < there;
    const auto pair = [&](int block) {
      return ptx::pack_bf16(sums[block][2 * half] * factor[half], sums[block][2 * half + 1] * factor[half]);
    };
    TESSERA_UNROLL
    for (int block = 0; block < vectors; block += 4) {
      Vector<std::uint32_t, 4> vector{{pair(block), pair(block + 1), pair(block + 2), pair(block + 3)}};
      transpose_quad(vector.values);
      if (exists && first + 8 * (block + t) < dim)
        reinterpret_cast<Vector<std::uint32_t, 4>*>(at + first)[block + t] = vector;
    }
    TESSERA_UNROLL
    for (int block = vectors; block < blocks; ++block)
      if (exists) store_pair<dim>(at, first + 8 * block + 2 * t, pair(block));
  }
}

// Starts copying `count` rows of a head to shared memory, by the whole block; those from `there` on become zero.
template <class Head>
__device__ void copy_rows(const bf16* from, int stride, int count, int there, bf16* to) {
  constexpr int size = Head::dim % 8 == 0 ? 8 : 1, pieces = Head::depth / size;
  for (int i = static_cast<int>(threadIdx.x); i < count * pieces; i += static_cast<int>(blockDim.x)) {
    const int row = i / pieces, c = i % pieces * size;
    const bool exists = row < there && c < Head::dim;
    const bf16* const source = exists ? from + row * stride + c : from;
    bf16* const target = to + row * Head::pitch + c;
    if constexpr (size == 8)
      ptx::copy_16(target, source, exists);
    else
      *target = exists ? *source : bf16(0.0f);
  }
}

__device__ inline void multiply_two(const std::uint32_t (&a)[4], const std::uint32_t (&b)[4], float (&left)[4],
                                    float (&right)[4]) {
  const std::uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  ptx::mma_16x8x16(left, a, low);
  ptx::mma_16x8x16(right, a, high);
}

// scores += a rows^T, for `height` tiles of a at once.
template <int pitch, int height, int slices, int blocks>
__device__ void add_scores(const std::uint32_t (&a)[height][slices][4], const bf16* rows,
                           float (&scores)[height][blocks][4]) {
  const int lane = lane_of_warp();
  rows += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
  TESSERA_UNROLL
  for (int n = 0; n < blocks; n += 2) {
    TESSERA_UNROLL
    for (int k = 0; k < slices; ++k) {
      std::uint32_t b[4];
      ptx::load_matrices(b, rows + 8 * n * pitch + 16 * k);
      TESSERA_UNROLL
      for (int h = 0; h < height; ++h) multiply_two(a[h][k], b, scores[h][n], scores[h][n + 1]);
    }
  }
}

// sums += a rows.
template <int pitch, int height, int slices, int blocks>
__device__ void add_weighted(const std::uint32_t (&a)[height][slices][4], const bf16* rows,
                             float (&sums)[height][blocks][4]) {
  const int lane = lane_of_warp();
  rows += lane % 16 * pitch + lane / 16 * 8;
  TESSERA_UNROLL
  for (int k = 0; k < slices; ++k) {
    TESSERA_UNROLL
    for (int n = 0; n < blocks; n += 2) {
      std::uint32_t b[4];
      ptx::load_transposed_matrices(b, rows + 16 * k * pitch + 8 * n);
      TESSERA_UNROLL
      for (int h = 0; h < height; ++h) multiply_two(a[h][k], b, sums[h][n], sums[h][n + 1]);
    }
  }
}

// Scores of 16 columns, rounded, as a slice of a left operand.
__device__ inline void round_slice(const float (&first)[4], const float (&second)[4], std::uint32_t (&a)[4]) {
  a[0] = ptx::pack_bf16(first[0], first[1]);
  a[1] = ptx::pack_bf16(first[2], first[3]);
  a[2] = ptx::pack_bf16(second[0], second[1]);
  a[3] = ptx::pack_bf16(second[2], second[3]);
}

// Waits until at most `pending` groups of the block's copies are under way.
template <int pending>
__device__ void await() {
  ptx::wait_for_copies<pending>();
  __syncthreads();
}

// Calls use(i, buffer) for i in [0, count), each after what load(i, buffer) copies to buffer 0 or 1 has arrived, while
// the next is on its way.
template <class Load, class Use>
__device__ void stream(int count, Load&& load, Use&& use) {
  load(0, 0);
  ptx::close_copies();
  for (int i = 0; i < count; ++i) {
    await<0>();
    if (i + 1 < count) load(i + 1, (i + 1) % 2);
    ptx::close_copies();
    use(i, i % 2);
  }
}

}  // namespace cuda::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
