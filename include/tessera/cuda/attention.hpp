// Softmax attention that never keeps a tokens x tokens matrix: in bf16 by matrix instructions, after FlashAttention-2
// (Dao, arXiv:2307.08691) with shapes known at compile time; in float by plain arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/ptx.hpp"

namespace tessera::inline TESSERA_ABI::cuda {

namespace detail {

inline constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f, infinite = std::numeric_limits<float>::infinity();

// The attention of one head of one image, whose operands are columns of matrices with images*tokens rows.
template <int tokens_, int heads_, int width_>
struct HeadShape {
  static constexpr int tokens = tokens_, heads = heads_, width = width_, dim = width / heads;

  // Where head `head` of all images' starts in a matrix of `columns` columns.
  TESSERA_HOST_DEVICE static index offset(index head, int columns) {
    return head / heads * tokens * columns + head % heads * dim;
  }
  static float scale() { return static_cast<float>(1 / std::sqrt(static_cast<double>(dim))); }
};

// ---- bf16 --------------------------------------------------------------------------------------------------------
//
// Operands are tiles of 16 rows. Left ones are in registers, a[k] holding columns [16k, 16k + 16); right ones are rows
// of shared memory, `pitch` values apart; sums[n] holds columns [8n, 8n + 8) as ptx::mma_16x8x16 returns them: of a
// thread's four values, two are in row `lane / 4` and two eight rows below. What is beyond a matrix's edge is zero.

// The number of warps, 4 to 6 or all that are needed, that leaves fewest idle where each takes a tile. Two blocks of 6
// have 168 registers to a thread.
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

__device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % warp_size;
}
__device__ inline int warp_of_block() {
  return static_cast<int>(threadIdx.x) / warp_size;
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
      const int c = first + 8 * (block + t);
      if (exists && c < dim) *reinterpret_cast<Vector<std::uint32_t, 4>*>(at + c) = vector;
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

// A warp's queries, `height` tiles of them, and what they have seen so far. `shift` is in units of scores, which
// times log2_scale are exponents of two.
template <class Head, int height>
struct Queries {
  std::uint32_t q[height][Head::depth / 16][4];
  float sums[height][Head::depth / 8][4] = {}, total[height][2] = {}, shift[height][2];

  __device__ Queries(const bf16* from, int first) {
    TESSERA_UNROLL
    for (int h = 0; h < height; ++h) {
      const int row = first + 16 * h;
      load_left<Head::dim>(from + row * 3 * Head::width, 3 * Head::width, Head::tokens - row, q[h]);
      shift[h][0] = shift[h][1] = -infinite;
    }
  }

  // Sees `keys` keys more, of which `there` exist.
  template <int keys, int there>
  __device__ void attend(const bf16* k, const bf16* v, float log2_scale) {
    float scores[height][keys / 8][4] = {};
    add_scores<Head::pitch>(q, k, scores);
    if constexpr (there < keys) {
      TESSERA_UNROLL
      for (int h = 0; h < height; ++h) {
        TESSERA_UNROLL
        for (int n = there / 8; n < keys / 8; ++n) {
          TESSERA_UNROLL
          for (int i = 0; i < 4; ++i)
            if (8 * n + lane_of_warp() % 4 * 2 + i % 2 >= there) scores[h][n][i] = -infinite;
        }
      }
    }
    move_shift(scores, log2_scale);
    std::uint32_t weights[height][keys / 16][4];
    TESSERA_UNROLL
    for (int h = 0; h < height; ++h) {
      const float exponent[2] = {shift[h][0] * log2_scale, shift[h][1] * log2_scale};
      TESSERA_UNROLL
      for (int n = 0; n < keys / 8; ++n) {
        TESSERA_UNROLL
        for (int i = 0; i < 4; ++i) {
          scores[h][n][i] = ptx::exp2(scores[h][n][i] * log2_scale - exponent[i / 2]);
          total[h][i / 2] += scores[h][n][i];
        }
        if (n % 2 == 1) round_slice(scores[h][n - 1], scores[h][n], weights[h][n / 2]);
      }
    }
    add_weighted<Head::pitch>(weights, v, sums);
  }

  // The shift that keeps exponents at most `slack` above zero. As long as the old one does, nothing is scaled again.
  template <int blocks>
  __device__ void move_shift(const float (&scores)[height][blocks][4], float log2_scale) {
    constexpr float slack = 8;
    float largest[height][2];
    bool moves = false;
    TESSERA_UNROLL
    for (int h = 0; h < height; ++h) {
      TESSERA_UNROLL
      for (int half = 0; half < 2; ++half) {
        float& most = largest[h][half] = -infinite;
        TESSERA_UNROLL
        for (int n = 0; n < blocks; ++n) most = fmaxf(most, fmaxf(scores[h][n][2 * half], scores[h][n][2 * half + 1]));
        most = quad_largest(most);
        moves = moves || (most - shift[h][half]) * log2_scale > slack;
      }
    }
    if (__ballot_sync(whole_warp, moves) == 0) return;
    TESSERA_UNROLL
    for (int h = 0; h < height; ++h) {
      TESSERA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float next = fmaxf(shift[h][half], largest[h][half]);
        const float factor = ptx::exp2((shift[h][half] - next) * log2_scale);
        shift[h][half] = next;
        total[h][half] *= factor;
        TESSERA_UNROLL
        for (auto& block : sums[h]) {
          block[2 * half] *= factor;
          block[2 * half + 1] *= factor;
        }
      }
    }
  }

  __device__ void finish(int first, float log2_scale, bf16* out, float* log_sums) {
    TESSERA_UNROLL
    for (int h = 0; h < height; ++h) {
      const int row = first + 16 * h;
      float inverse[2];
      TESSERA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float sum = quad_sum(total[h][half]);
        const int query = row + lane_of_warp() / 4 + 8 * half;
        inverse[half] = 1 / sum;
        if (lane_of_warp() % 4 == 0 && query < Head::tokens)
          log_sums[query] = shift[h][half] * log2_scale * ln_2 + logf(sum);
      }
      store_sums<Head::dim>(sums[h], inverse, out + row * Head::width, Head::width, Head::tokens - row);
    }
  }
};

// Of the running warp, where query_blocks blocks share a head.
template <class Head>
__device__ int first_query() {
  return static_cast<int>(blockIdx.x % Head::query_blocks) * Head::queries_of_block +
         16 * Head::height * warp_of_block();
}

// Sees the keys and values of one step.
template <class Head, int height>
__device__ void attend_step(int step, const bf16* k, const bf16* v, float log2_scale, Queries<Head, height>& queries) {
  constexpr int there = Head::tokens - (Head::steps - 1) * Head::step;
  if (step < Head::steps - 1)
    queries.template attend<Head::step, Head::step>(k, v, log2_scale);
  else
    queries.template attend<Head::last_keys, there>(k, v, log2_scale);
}

template <class Head>
__global__ void __launch_bounds__(warp_size* Head::resident_warps, Head::depth <= 80 ? 2 : 1)
    resident_forward_kernel(const bf16* qkv, float log2_scale, bf16* out, float* log_sums) {
  constexpr int stride = 3 * Head::width;
  const index head = blockIdx.x;
  bf16* const k = reinterpret_cast<bf16*>(shared_memory());
  bf16* const v = k + Head::rows * Head::pitch;
  qkv += Head::offset(head, stride);
  // What the first step needs, then the rest.
  constexpr int first_keys = Head::rows < Head::step ? Head::rows : Head::step;
  const auto copy = [&](int key, int count) {
    const bf16* const from = qkv + key * stride;
    copy_rows<Head>(from + Head::width, stride, count, Head::tokens - key, k + key * Head::pitch);
    copy_rows<Head>(from + 2 * Head::width, stride, count, Head::tokens - key, v + key * Head::pitch);
    ptx::close_copies();
  };
  copy(0, first_keys);
  copy(first_keys, Head::rows - first_keys);
  for (int turn = 0; turn < Head::turns; ++turn) {
    const int tile = warp_of_block() + turn * Head::resident_warps;
    if (tile >= Head::tiles) return;
    Queries<Head, 1> queries(qkv, 16 * tile);
    for (int step = 0; step < Head::steps; ++step) {
      if (turn == 0 && step == 0) await<1>();
      if (turn == 0 && step == 1) await<0>();
      attend_step(step, k + step * Head::step * Head::pitch, v + step * Head::step * Head::pitch, log2_scale, queries);
    }
    queries.finish(16 * tile, log2_scale, out + Head::offset(head, Head::width), log_sums + head * Head::tokens);
  }
}

template <class Head>
__global__ void __launch_bounds__(warp_size* Head::streamed_warps, Head::depth <= 80 ? 2 : 1)
    streamed_forward_kernel(const bf16* qkv, float log2_scale, bf16* out, float* log_sums) {
  constexpr int stride = 3 * Head::width, height = Head::height;
  const index head = blockIdx.x / Head::query_blocks;
  const int first = first_query<Head>();
  const auto buffer = [](int which) {
    return reinterpret_cast<bf16*>(shared_memory()) + which * Head::step * Head::pitch;
  };
  qkv += Head::offset(head, stride);
  Queries<Head, height> queries(qkv, first);
  stream(
      Head::steps,
      [&](int step, int which) {
        const int key = step * Head::step, count = step < Head::steps - 1 ? Head::step : Head::last_keys;
        const bf16* const from = qkv + static_cast<index>(key) * stride;
        copy_rows<Head>(from + Head::width, stride, count, Head::tokens - key, buffer(2 * which));
        copy_rows<Head>(from + 2 * Head::width, stride, count, Head::tokens - key, buffer(2 * which + 1));
      },
      [&](int step, int which) {
        if (first < Head::tokens) attend_step(step, buffer(2 * which), buffer(2 * which + 1), log2_scale, queries);
      });
  if (first < Head::tokens)
    queries.finish(first, log2_scale, out + Head::offset(head, Head::width), log_sums + head * Head::tokens);
}

template <class Head>
void tiled_forward(Backend<bf16>& backend, index heads, const bf16* qkv, bf16* out, float* log_sums) {
  const float log2_scale = Head::scale() * log2_e;
  if constexpr (Head::resident)
    launch(backend, dim3(static_cast<unsigned>(heads)), warp_size * Head::resident_warps, Head::resident_bytes,
           resident_forward_kernel<Head>, qkv, log2_scale, out, log_sums);
  else
    launch(backend, dim3(static_cast<unsigned>(heads * Head::query_blocks)), warp_size * Head::streamed_warps,
           Head::streamed_bytes, streamed_forward_kernel<Head>, qkv, log2_scale, out, log_sums);
}

// The sum over a row's columns of a b, for the row that the quad shares.
template <int dim>
__device__ float row_product(const bf16* a, const bf16* b, bool exists) {
  constexpr int size = vector_width<bf16>(dim);
  float sum = 0;
  TESSERA_UNROLL
  for (int first = 0; first < dim; first += 4 * size) {
    const int c = first + lane_of_warp() % 4 * size;
    if (!exists || c >= dim) continue;
    float x[size], y[size];
    load<size>(a + c, x);
    load<size>(b + c, y);
    TESSERA_UNROLL
    for (int i = 0; i < size; ++i) sum += x[i] * y[i];
  }
  return quad_sum(sum);
}

// Of one query: log2 of its sum of weights, infinite if there is no such query, and out * d_out.
struct alignas(8) Statistics {
  float exponent, product;
};

// From scores and the gradients of weights to weights and the gradients of scores, of 16 columns, both rounded.
// exponent(i) and along(i) belong to value i of the block that begins at column `first`; weights where absent(...) are
// zero.
template <class Exponent, class Along, class Absent>
__device__ void score_gradients(float (&scores)[2][4], float (&gradients)[2][4], float log2_scale, Exponent&& exponent,
                                Along&& along, Absent&& absent, std::uint32_t (&weights)[4],
                                std::uint32_t (&d_scores)[4]) {
  TESSERA_UNROLL
  for (int n = 0; n < 2; ++n) {
    TESSERA_UNROLL
    for (int i = 0; i < 4; ++i) {
      float& weight = scores[n][i];
      weight = ptx::exp2(weight * log2_scale - exponent(n, i));
      if (absent(n, i)) weight = 0;
      gradients[n][i] = weight * (gradients[n][i] - along(n, i));
    }
  }
  round_slice(scores[0], scores[1], weights);
  round_slice(gradients[0], gradients[1], d_scores);
}

// A warp's 16 keys and values, and their gradients from the queries seen so far.
template <class Head>
struct Keys {
  static constexpr int slices = Head::depth / 16;
  std::uint32_t k[1][slices][4], v[1][slices][4];
  float d_k[1][2 * slices][4] = {}, d_v[1][2 * slices][4] = {};

  // Sees 16 queries: rows of shared memory. d_scores: a left operand of 16 keys and 16 queries.
  __device__ void attend(const bf16* q, const bf16* d_out, const Statistics* statistics, float log2_scale,
                         std::uint32_t (&d_scores)[1][1][4]) {
    float scores[1][2][4] = {}, gradients[1][2][4] = {};
    std::uint32_t weights[1][1][4];
    add_scores<Head::pitch>(k, q, scores);
    add_scores<Head::pitch>(v, d_out, gradients);
    const int column = lane_of_warp() % 4 * 2;
    const Vector<float, 4> pairs[2] = {*reinterpret_cast<const Vector<float, 4>*>(statistics + column),
                                       *reinterpret_cast<const Vector<float, 4>*>(statistics + 8 + column)};
    score_gradients(
        scores[0], gradients[0], log2_scale, [&](int n, int i) { return pairs[n].values[i % 2 * 2]; },
        [&](int n, int i) { return pairs[n].values[i % 2 * 2 + 1]; }, [](int, int) { return false; }, weights[0][0],
        d_scores[0][0]);
    add_weighted<Head::pitch>(weights, d_out, d_v);
    add_weighted<Head::pitch>(d_scores, q, d_k);
  }

  // d_qkv: of the head.
  __device__ void finish(int first, float scale, bf16* d_qkv) const {
    constexpr int stride = 3 * Head::width;
    bf16* const to = d_qkv + first * stride;
    store_sums<Head::dim>(d_k[0], {scale, scale}, to + Head::width, stride, Head::tokens - first);
    store_sums<Head::dim>(d_v[0], {1, 1}, to + 2 * Head::width, stride, Head::tokens - first);
  }
};

// The gradients of a chunk's queries, by the whole block: d_scores (keys x chunk) of shared memory, transposed, times
// k.
template <class Head>
__device__ void store_query_gradients(const bf16* d_scores, const bf16* k, float scale, int first, bf16* d_qkv) {
  constexpr int columns = Head::depth % 32 == 0 ? 32 : 16, across = Head::depth / columns;
  const int lane = lane_of_warp();
  for (int task = warp_of_block(); task < Head::chunk / 16 * across; task += Head::tiles) {
    const int row = task / across * 16, column = task % across * columns, query = first + row;
    if (query >= Head::tokens) return;
    float sums[1][columns / 8][4] = {};
    const bf16* const from = d_scores + (lane / 16 * 8 + lane % 8) * Head::chunk_pitch + row + lane / 8 % 2 * 8;
    for (int key = 0; key < Head::rows; key += 16) {
      std::uint32_t a[1][1][4];
      ptx::load_transposed_matrices(a[0][0], from + key * Head::chunk_pitch);
      add_weighted<Head::pitch>(a, k + key * Head::pitch + column, sums);
    }
    store_sums<Head::dim>(sums[0], {scale, scale}, d_qkv + query * 3 * Head::width, 3 * Head::width,
                          Head::tokens - query, column);
  }
}

template <class Head>
__global__ void __launch_bounds__(warp_size* Head::tiles)
    whole_backward_kernel(const bf16* qkv, const bf16* out, const float* log_sums, const bf16* d_out, float log2_scale,
                          float scale, bf16* d_qkv) {
  constexpr int stride = 3 * Head::width, size = Head::rows * Head::pitch;
  const index head = blockIdx.x, start = Head::offset(head, Head::width);
  bf16* const q = reinterpret_cast<bf16*>(shared_memory());
  bf16* const k = q + size;
  bf16* const gradient = k + size;
  bf16* const d_scores = gradient + size;
  auto* const statistics =
      reinterpret_cast<Statistics*>(d_scores + Head::chunk_buffers * Head::rows * Head::chunk_pitch);
  qkv += Head::offset(head, stride);
  d_qkv += Head::offset(head, stride);
  // What the first chunk needs, then the rest.
  const auto copy = [&](int query, int count) {
    const int there = Head::tokens - query, to = query * Head::pitch;
    copy_rows<Head>(qkv + query * stride, stride, count, there, q + to);
    copy_rows<Head>(d_out + start + query * Head::width, Head::width, count, there, gradient + to);
    ptx::close_copies();
  };
  copy_rows<Head>(qkv + Head::width, stride, Head::rows, Head::tokens, k);
  copy(0, Head::chunk);
  copy(Head::chunk, Head::rows - Head::chunk);

  const int first = 16 * warp_of_block(), lane = lane_of_warp();
  Keys<Head> keys;
  load_left<Head::dim>(qkv + first * stride + 2 * Head::width, stride, Head::tokens - first, keys.v[0]);
  TESSERA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int query = first + lane / 4 + 8 * half;
    const bool exists = query < Head::tokens;
    const index at = start + query * Head::width;
    const float product = row_product<Head::dim>(out + at, d_out + at, exists);
    if (lane % 4 == 0)
      statistics[query] = {exists ? log_sums[head * Head::tokens + query] * log2_e : infinite, product};
  }
  await<1>();
  if constexpr (Head::keeps_keys) load_left<Head::pitch>(k + first * Head::pitch, keys.k[0]);

  for (int chunk = 0; chunk < Head::chunks; ++chunk) {
    const int begin = chunk * Head::chunk, end = begin + Head::chunk < Head::rows ? begin + Head::chunk : Head::rows;
    bf16* const buffer = d_scores + chunk % 2 * Head::rows * Head::chunk_pitch;
    for (int query = begin; query < end; query += 16) {
      std::uint32_t a[1][1][4];
      if constexpr (!Head::keeps_keys) load_left<Head::pitch>(k + first * Head::pitch, keys.k[0]);
      keys.attend(q + query * Head::pitch, gradient + query * Head::pitch, statistics + query, log2_scale, a);
      bf16* const to = buffer + (first + lane / 4) * Head::chunk_pitch + query - begin + lane % 4 * 2;
      TESSERA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const bool exists = first + lane / 4 + i % 2 * 8 < Head::tokens;
        *reinterpret_cast<std::uint32_t*>(to + i % 2 * 8 * Head::chunk_pitch + i / 2 * 8) = exists ? a[0][0][i] : 0u;
      }
    }
    await<0>();
    store_query_gradients<Head>(buffer, k, scale, begin, d_qkv);
  }
  keys.finish(first, scale, d_qkv);
}

// The gradients of queries, and out * d_out of each.
template <class Head>
__global__ void __launch_bounds__(warp_size* Head::streamed_warps, Head::depth <= 80 ? 2 : 1)
    query_backward_kernel(const bf16* qkv, const bf16* out, const float* log_sums, const bf16* d_out, float log2_scale,
                          float scale, bf16* d_qkv, Statistics* statistics) {
  constexpr int stride = 3 * Head::width, height = Head::height, slices = Head::depth / 16;
  const index head = blockIdx.x / Head::query_blocks, start = Head::offset(head, Head::width);
  const int first = first_query<Head>(), lane = lane_of_warp();
  const auto buffer = [](int which) {
    return reinterpret_cast<bf16*>(shared_memory()) + which * Head::chunk * Head::pitch;
  };
  qkv += Head::offset(head, stride);
  std::uint32_t q[height][slices][4], gradient[height][slices][4];
  float exponent[height][2], along[height][2], sums[height][2 * slices][4] = {};
  TESSERA_UNROLL
  for (int h = 0; h < height; ++h) {
    const int row = first + 16 * h;
    load_left<Head::dim>(qkv + row * stride, stride, Head::tokens - row, q[h]);
    load_left<Head::dim>(d_out + start + row * Head::width, Head::width, Head::tokens - row, gradient[h]);
    TESSERA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = row + lane / 4 + 8 * half;
      const bool exists = query < Head::tokens;
      const index at = start + query * Head::width;
      along[h][half] = row_product<Head::dim>(out + at, d_out + at, exists);
      exponent[h][half] = exists ? log_sums[head * Head::tokens + query] * log2_e : infinite;
      if (exists && lane % 4 == 0) statistics[head * Head::tokens + query] = {exponent[h][half], along[h][half]};
    }
  }
  stream(
      Head::chunks,
      [&](int chunk, int which) {
        const int key = chunk * Head::chunk;
        const bf16* const from = qkv + key * stride;
        copy_rows<Head>(from + Head::width, stride, Head::chunk, Head::tokens - key, buffer(2 * which));
        copy_rows<Head>(from + 2 * Head::width, stride, Head::chunk, Head::tokens - key, buffer(2 * which + 1));
      },
      [&](int chunk, int which) {
        if (first >= Head::tokens) return;
        const int left = Head::tokens - chunk * Head::chunk, end = left < Head::chunk ? left : Head::chunk;
        for (int key = 0; key < end; key += 16) {
          const bf16* const k = buffer(2 * which) + key * Head::pitch;
          const bf16* const v = buffer(2 * which + 1) + key * Head::pitch;
          float scores[height][2][4] = {}, gradients[height][2][4] = {};
          std::uint32_t weights[4], d_scores[height][1][4];
          add_scores<Head::pitch>(q, k, scores);
          add_scores<Head::pitch>(gradient, v, gradients);
          TESSERA_UNROLL
          for (int h = 0; h < height; ++h)
            score_gradients(
                scores[h], gradients[h], log2_scale, [&](int, int i) { return exponent[h][i / 2]; },
                [&](int, int i) { return along[h][i / 2]; },
                [&](int n, int i) { return key + 8 * n + lane % 4 * 2 + i % 2 >= end; }, weights, d_scores[h][0]);
          add_weighted<Head::pitch>(d_scores, k, sums);
        }
      });
  TESSERA_UNROLL
  for (int h = 0; h < height; ++h) {
    const int row = first + 16 * h;
    store_sums<Head::dim>(sums[h], {scale, scale}, d_qkv + Head::offset(head, stride) + row * stride, stride,
                          Head::tokens - row);
  }
}

// The gradients of keys and values.
template <class Head>
__global__ void __launch_bounds__(warp_size* Head::key_warps, Head::depth <= 80 ? 2 : 1)
    key_backward_kernel(const bf16* qkv, const Statistics* statistics, const bf16* d_out, float log2_scale, float scale,
                        bf16* d_qkv) {
  constexpr int stride = 3 * Head::width, size = Head::chunk * Head::pitch;
  const index head = blockIdx.x / Head::key_blocks;
  const int first = 16 * (static_cast<int>(blockIdx.x % Head::key_blocks) * Head::key_warps + warp_of_block());
  const auto buffer = [](int which) { return reinterpret_cast<bf16*>(shared_memory()) + which * size; };
  const auto shared_statistics = [&](int which) {
    return reinterpret_cast<Statistics*>(buffer(4)) + which * Head::chunk;
  };
  qkv += Head::offset(head, stride);
  d_out += Head::offset(head, Head::width);
  d_qkv += Head::offset(head, stride);
  statistics += head * Head::tokens;
  Keys<Head> keys;
  const bf16* const own = qkv + first * stride;
  load_left<Head::dim>(own + Head::width, stride, Head::tokens - first, keys.k[0]);
  load_left<Head::dim>(own + 2 * Head::width, stride, Head::tokens - first, keys.v[0]);
  stream(
      Head::chunks,
      [&](int chunk, int which) {
        const int begin = chunk * Head::chunk;
        copy_rows<Head>(qkv + begin * stride, stride, Head::chunk, Head::tokens - begin, buffer(2 * which));
        copy_rows<Head>(d_out + begin * Head::width, Head::width, Head::chunk, Head::tokens - begin,
                        buffer(2 * which + 1));
        for (int i = static_cast<int>(threadIdx.x); i < Head::chunk; i += static_cast<int>(blockDim.x))
          shared_statistics(which)[i] = begin + i < Head::tokens ? statistics[begin + i] : Statistics{infinite, 0};
      },
      [&](int chunk, int which) {
        if (first >= Head::tokens) return;
        const int left = Head::tokens - chunk * Head::chunk, end = left < Head::chunk ? left : Head::chunk;
        for (int query = 0; query < end; query += 16) {
          std::uint32_t d_scores[1][1][4];
          keys.attend(buffer(2 * which) + query * Head::pitch, buffer(2 * which + 1) + query * Head::pitch,
                      shared_statistics(which) + query, log2_scale, d_scores);
        }
      });
  keys.finish(first, scale, d_qkv);
}

// The most that a block may ask for.
inline index shared_bytes_of(int device) {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  return bytes;
}

template <class Head>
void tiled_backward(Backend<bf16>& backend, index heads, const bf16* qkv, const bf16* out, const float* log_sums,
                    const bf16* d_out, bf16* d_qkv) {
  const float scale = Head::scale(), log2_scale = scale * log2_e;
  if constexpr (Head::whole) {
    if (shared_bytes_of(backend.device()) >= Head::whole_bytes) {
      launch(backend, dim3(static_cast<unsigned>(heads)), warp_size * Head::tiles, Head::whole_bytes,
             whole_backward_kernel<Head>, qkv, out, log_sums, d_out, log2_scale, scale, d_qkv);
      return;
    }
  }
  const Backend<bf16>::Arena::Frame frame(backend.arena());
  Statistics* const statistics = backend.arena().take<Statistics>(heads * Head::tokens);
  launch(backend, dim3(static_cast<unsigned>(heads * Head::query_blocks)), warp_size * Head::streamed_warps,
         4 * Head::chunk * Head::row_bytes, query_backward_kernel<Head>, qkv, out, log_sums, d_out, log2_scale, scale,
         d_qkv, statistics);
  launch(backend, dim3(static_cast<unsigned>(heads * Head::key_blocks)), warp_size * Head::key_warps,
         Head::chunks_bytes, key_backward_kernel<Head>, qkv, statistics, d_out, log2_scale, scale, d_qkv);
}

// ---- float -------------------------------------------------------------------------------------------------------
//
// A warp has four rows of its own, column by column in shared memory, and goes past the other rows 32 at a time: lanes
// are those rows where scores are made, and columns where they are used.

template <int tokens_, int heads_, int width_>
struct PlainHead : HeadShape<tokens_, heads_, width_> {
  using HeadShape<tokens_, heads_, width_>::tokens, HeadShape<tokens_, heads_, width_>::dim;

  static constexpr int warps = 8, height = 4, rows_of_block = warps * height, threads = warp_size * warps;
  static constexpr index blocks = divide_up(tokens, rows_of_block);
  static constexpr int parts = (dim + 31) / 32, pitch = dim | 1, tile_size = warp_size * pitch;

  // `operands` matrices whose rows are owned, and as many that are passed.
  static constexpr index bytes(int operands) {
    return operands * (rows_of_block * (dim + warp_size) + tile_size) * static_cast<index>(sizeof(float));
  }
  __device__ static int first_row() {
    return static_cast<int>(blockIdx.x % blocks) * rows_of_block + warp_of_block() * height;
  }
};

using Four = Vector<float, 4>;  // a value of each of a warp's rows

// What one warp computes with, of one operand: own rows (dim), weights of 32 passing rows, and these rows (tile).
template <class Head>
struct PlainOperand {
  Four *own, *weights;
  float* tile;

  // The `which`-th in shared memory.
  __device__ explicit PlainOperand(int which) {
    tile = reinterpret_cast<float*>(shared_memory() + Head::bytes(which));
    // Vectors come first: a tile's size is a multiple of 128 bytes.
    own = reinterpret_cast<Four*>(tile + Head::tile_size) + warp_of_block() * (Head::dim + warp_size);
    weights = own + Head::dim;
  }

  __device__ void load_own(const float* from, int stride, int first) const {
    for (int c = lane_of_warp(); c < Head::dim; c += warp_size) {
      TESSERA_UNROLL
      for (int r = 0; r < Head::height; ++r)
        own[c].values[r] = first + r < Head::tokens ? from[(first + r) * stride + c] : 0.0f;
    }
    __syncwarp();
  }
  // By the whole block.
  __device__ void load_tile(const float* from, int stride, int first) const {
    for (int i = static_cast<int>(threadIdx.x); i < warp_size * Head::dim; i += static_cast<int>(blockDim.x)) {
      const int row = i / Head::dim, c = i % Head::dim;
      tile[row * Head::pitch + c] = first + row < Head::tokens ? from[(first + row) * stride + c] : 0.0f;
    }
  }
  // The products of own rows with the lane's.
  __device__ Four scores() const {
    Four sums{};
    const float* const row = tile + lane_of_warp() * Head::pitch;
    for (int c = 0; c < Head::dim; ++c) {
      const Four left = own[c];
      TESSERA_UNROLL
      for (int r = 0; r < Head::height; ++r) sums.values[r] += left.values[r] * row[c];
    }
    return sums;
  }
  // sums += weights (each lane's own) * tile, lane l having columns l, l + 32, ...
  __device__ void add_weighted(const Four& weight, Four (&sums)[Head::parts]) const {
    __syncwarp();
    weights[lane_of_warp()] = weight;
    __syncwarp();
    for (int j = 0; j < warp_size; ++j) {
      const Four left = weights[j];
      TESSERA_UNROLL
      for (int part = 0; part < Head::parts; ++part) {
        const int c = 32 * part + lane_of_warp();
        const float right = c < Head::dim ? tile[j * Head::pitch + c] : 0.0f;
        TESSERA_UNROLL
        for (int r = 0; r < Head::height; ++r) sums[part].values[r] += left.values[r] * right;
      }
    }
  }
  __device__ static void store(const Four (&sums)[Head::parts], const Four& factor, float* to, int stride, int first) {
    TESSERA_UNROLL
    for (int part = 0; part < Head::parts; ++part) {
      const int c = 32 * part + lane_of_warp();
      TESSERA_UNROLL
      for (int r = 0; r < Head::height; ++r)
        if (c < Head::dim && first + r < Head::tokens)
          to[(first + r) * stride + c] = sums[part].values[r] * factor.values[r];
    }
  }
};

template <class Head>
__global__ void plain_forward_kernel(const float* qkv, float scale, float* out, float* log_sums) {
  constexpr int stride = 3 * Head::width;
  const index head = blockIdx.x / Head::blocks;
  const int first = Head::first_row();
  const PlainOperand<Head> keys(0), values(1);
  qkv += Head::offset(head, stride);
  keys.load_own(qkv, stride, first);
  Four sums[Head::parts] = {}, total{}, shift{{-infinite, -infinite, -infinite, -infinite}};
  for (int key = 0; key < Head::tokens; key += warp_size) {
    __syncthreads();
    keys.load_tile(qkv + Head::width, stride, key);
    values.load_tile(qkv + 2 * Head::width, stride, key);
    __syncthreads();
    Four weight = keys.scores();
    TESSERA_UNROLL
    for (int r = 0; r < Head::height; ++r) {
      const float score = key + lane_of_warp() < Head::tokens ? weight.values[r] * scale : -infinite;
      const float next = fmaxf(shift.values[r], warp_largest(score)), factor = expf(shift.values[r] - next);
      weight.values[r] = expf(score - next);
      total.values[r] = total.values[r] * factor + weight.values[r];
      shift.values[r] = next;
      TESSERA_UNROLL
      for (Four& sum : sums) sum.values[r] *= factor;
    }
    values.add_weighted(weight, sums);
  }
  Four inverse;
  TESSERA_UNROLL
  for (int r = 0; r < Head::height; ++r) {
    const float sum = warp_sum(total.values[r]);
    inverse.values[r] = 1 / sum;
    if (lane_of_warp() == 0 && first + r < Head::tokens)
      log_sums[head * Head::tokens + first + r] = shift.values[r] + logf(sum);
  }
  values.store(sums, inverse, out + Head::offset(head, Head::width), Head::width, first);
}

template <class Head>
__global__ void plain_query_backward_kernel(const float* qkv, const float* out, const float* log_sums,
                                            const float* d_out, float scale, float* d_qkv, float* products) {
  constexpr int stride = 3 * Head::width;
  const index head = blockIdx.x / Head::blocks, row = head * Head::tokens, start = Head::offset(head, Head::width);
  const int first = Head::first_row();
  const PlainOperand<Head> keys(0), values(1);
  qkv += Head::offset(head, stride);
  keys.load_own(qkv, stride, first);
  values.load_own(d_out + start, Head::width, first);
  Four sums[Head::parts] = {}, log_sum{}, along{}, factor;
  TESSERA_UNROLL
  for (int r = 0; r < Head::height; ++r) {
    factor.values[r] = scale;
    if (first + r >= Head::tokens) continue;
    log_sum.values[r] = log_sums[row + first + r];
    const float* const at = out + start + (first + r) * Head::width;
    for (int c = lane_of_warp(); c < Head::dim; c += warp_size) along.values[r] += at[c] * values.own[c].values[r];
    along.values[r] = warp_sum(along.values[r]);
    if (lane_of_warp() == 0) products[row + first + r] = along.values[r];
  }
  for (int key = 0; key < Head::tokens; key += warp_size) {
    __syncthreads();
    keys.load_tile(qkv + Head::width, stride, key);
    values.load_tile(qkv + 2 * Head::width, stride, key);
    __syncthreads();
    const Four score = keys.scores();
    Four gradient = values.scores();
    TESSERA_UNROLL
    for (int r = 0; r < Head::height; ++r) {
      const bool exists = key + lane_of_warp() < Head::tokens && first + r < Head::tokens;
      const float weight = exists ? expf(score.values[r] * scale - log_sum.values[r]) : 0.0f;
      gradient.values[r] = weight * (gradient.values[r] - along.values[r]);
    }
    keys.add_weighted(gradient, sums);
  }
  keys.store(sums, factor, d_qkv + Head::offset(head, stride), stride, first);
}

template <class Head>
__global__ void plain_key_backward_kernel(const float* qkv, const float* log_sums, const float* d_out,
                                          const float* products, float scale, float* d_qkv) {
  constexpr int stride = 3 * Head::width;
  const index head = blockIdx.x / Head::blocks, row = head * Head::tokens;
  const int first = Head::first_row();
  const PlainOperand<Head> queries(0), gradients(1);
  qkv += Head::offset(head, stride);
  d_out += Head::offset(head, Head::width);
  d_qkv += Head::offset(head, stride);
  queries.load_own(qkv + Head::width, stride, first);
  gradients.load_own(qkv + 2 * Head::width, stride, first);
  Four d_k[Head::parts] = {}, d_v[Head::parts] = {};
  for (int begin = 0; begin < Head::tokens; begin += warp_size) {
    __syncthreads();
    queries.load_tile(qkv, stride, begin);
    gradients.load_tile(d_out, Head::width, begin);
    __syncthreads();
    const int query = begin + lane_of_warp();
    const bool exists = query < Head::tokens;
    const float log_sum = exists ? log_sums[row + query] : infinite, along = exists ? products[row + query] : 0.0f;
    Four weight = queries.scores(), gradient = gradients.scores();
    TESSERA_UNROLL
    for (int r = 0; r < Head::height; ++r) {
      weight.values[r] = expf(weight.values[r] * scale - log_sum);
      gradient.values[r] = weight.values[r] * (gradient.values[r] - along);
    }
    gradients.add_weighted(weight, d_v);
    queries.add_weighted(gradient, d_k);
  }
  queries.store(d_k, {{scale, scale, scale, scale}}, d_qkv + Head::width, stride, first);
  gradients.store(d_v, {{1, 1, 1, 1}}, d_qkv + 2 * Head::width, stride, first);
}

template <class Head>
void plain_backward(Backend<float>& backend, index heads, const float* qkv, const float* out, const float* log_sums,
                    const float* d_out, float* d_qkv) {
  const dim3 grid(static_cast<unsigned>(heads * Head::blocks));
  const Backend<float>::Arena::Frame frame(backend.arena());
  float* const products = backend.arena().take<float>(heads * Head::tokens);
  launch(backend, grid, Head::threads, Head::bytes(2), plain_query_backward_kernel<Head>, qkv, out, log_sums, d_out,
         Head::scale(), d_qkv, products);
  launch(backend, grid, Head::threads, Head::bytes(2), plain_key_backward_kernel<Head>, qkv, log_sums, d_out, products,
         Head::scale(), d_qkv);
}

// ---- weights -----------------------------------------------------------------------------------------------------

inline constexpr int weights_warps = 4;

// A warp to a query; a lane to a key at a time.
template <class Head, class Scalar>
__global__ void attention_weights_kernel(index rows, const Scalar* qkv, float scale, Scalar* weights) {
  constexpr int stride = 3 * Head::width, size = vector_width<Scalar>(Head::dim);
  const index row = static_cast<index>(blockIdx.x) * weights_warps + warp_of_block();
  if (row >= rows) return;
  float* const scores = reinterpret_cast<float*>(shared_memory()) + warp_of_block() * Head::tokens;
  qkv += Head::offset(row / Head::tokens, stride);
  const Scalar* const q = qkv + row % Head::tokens * stride;
  float largest = -infinite, sum = 0;
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size) {
    const Scalar* const k = qkv + key * stride + Head::width;
    float score = 0;
    for (int c = 0; c < Head::dim; c += size) {
      float left[size], right[size];
      load<size>(q + c, left);
      load<size>(k + c, right);
      TESSERA_UNROLL
      for (int i = 0; i < size; ++i) score += left[i] * right[i];
    }
    scores[key] = score * scale;
    largest = fmaxf(largest, scores[key]);
  }
  largest = warp_largest(largest);
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size) {
    scores[key] = expf(scores[key] - largest);
    sum += scores[key];
  }
  const float inverse = 1 / warp_sum(sum);
  for (int key = lane_of_warp(); key < Head::tokens; key += warp_size)
    weights[row * Head::tokens + key] = static_cast<Scalar>(scores[key] * inverse);
}

}  // namespace detail

// out = softmax(q k^T / sqrt(dim)) v for every head; spec 2.2. qkv (images*tokens x 3 width) holds q, k and v of all
// heads in this order, out (images*tokens x width), log_sums (images*heads x tokens) receives each query's
// log(sum over keys of exp(score)), from which backward computes the weights again.
template <int tokens, int heads, class Scalar, int width>
void attention_forward(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out,
                       Rows<Accumulator<Scalar>, tokens> log_sums) {
  const index count = qkv.rows / tokens * heads;
  if constexpr (std::is_same_v<Scalar, bf16>) {
    detail::tiled_forward<detail::TiledHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data);
  } else {
    using Head = detail::PlainHead<tokens, heads, width>;
    launch(backend, dim3(static_cast<unsigned>(count * Head::blocks)), Head::threads, Head::bytes(2),
           detail::plain_forward_kernel<Head>, qkv.data, Head::scale(), out.data, log_sums.data);
  }
}

// The gradient with respect to qkv. out and log_sums are forward's.
template <int tokens, int heads, class Scalar, int width>
void attention_backward(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width> out,
                        Rows<const Accumulator<Scalar>, tokens> log_sums, Rows<const Scalar, width> d_out,
                        Rows<Scalar, 3 * width> d_qkv) {
  const index count = qkv.rows / tokens * heads;
  if constexpr (std::is_same_v<Scalar, bf16>)
    detail::tiled_backward<detail::TiledHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data,
                                                                    d_out.data, d_qkv.data);
  else
    detail::plain_backward<detail::PlainHead<tokens, heads, width>>(backend, count, qkv.data, out.data, log_sums.data,
                                                                    d_out.data, d_qkv.data);
}

// The attention weights themselves, for looking at: weights (images*heads*tokens x tokens).
template <int tokens, int heads, int width, class Scalar>
void attention_weights(Backend<Scalar>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, tokens> weights) {
  using Head = detail::HeadShape<tokens, heads, width>;
  constexpr int warps = detail::weights_warps;
  launch(backend, blocks_for(weights.rows, warps), warp_size * warps, warps * tokens * index{sizeof(float)},
         detail::attention_weights_kernel<Head, Scalar>, weights.rows, qkv.data, Head::scale(), weights.data);
}

}  // namespace tessera::inline TESSERA_ABI::cuda
