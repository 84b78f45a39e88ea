// Attention forward in bf16, after FlashAttention-2 (Dao, arXiv:2307.08691) with shapes known at compile time.
#pragma once

#include <cstdint>

#include "tessera/cuda/attention/tiles.hpp"
#include "tessera/cuda/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::detail {

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
  // Copies the tiles of the first step before the others, so that it can start early.
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

}  // namespace cuda::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
