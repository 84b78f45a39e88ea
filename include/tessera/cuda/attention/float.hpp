// Attention in float, by plain arithmetic. A warp has four rows of its own, column by column in shared memory, and goes
// past the other rows 32 at a time: lanes are those rows where scores are made, and columns where they are used.
#pragma once

#include <cmath>

#include "tessera/cuda/attention/head.hpp"
#include "tessera/cuda/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::detail {

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

// The shared memory of one warp for one operand: its own rows (dim), weights of 32 passing rows, and these rows (tile).
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

}  // namespace cuda::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
