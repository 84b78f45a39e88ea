// Attention backward in bf16, without atomics: in one kernel where a head fits into shared memory, else in two.
#pragma once

#include <cstdint>

#include "tessera/cuda/attention/tiles.hpp"
#include "tessera/cuda/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::detail {

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

// The values of one query: log2 of its sum of weights, infinite if there is no such query, and out * d_out.
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
  // Copies the tiles of the first chunk before the others, so that it can start early.
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

}  // namespace cuda::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
