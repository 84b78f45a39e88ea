// Building blocks of kernels: vectors of memory, sums over warps and blocks.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/cuda/ptx.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// As many scalars as one load or store moves.
template <class Scalar, int count>
struct alignas(sizeof(Scalar) * count) Vector {
  Scalar values[count];
};

// The widest vector, of at most 16 bytes, whose count divides `columns`.
template <class Scalar>
[[nodiscard]] constexpr int vector_width(int columns) {
  int width = 16 / static_cast<int>(sizeof(Scalar));
  while (columns % width != 0) width /= 2;
  return width;
}

// to[0, count) = from[0, count) as accumulators; from is aligned to the vector. Pairs of bf16 are unpacked from words.
template <int count, class Scalar>
__device__ inline void load(const Scalar* from, Accumulator<Scalar> (&to)[count]) {
  if constexpr (std::is_same_v<Scalar, bf16> && count % 2 == 0) {
    const auto pairs = *reinterpret_cast<const Vector<std::uint32_t, count / 2>*>(from);
    TESSERA_UNROLL
    for (int i = 0; i < count / 2; ++i) {
      to[2 * i] = std::bit_cast<float>(pairs.values[i] << 16);
      to[2 * i + 1] = std::bit_cast<float>(pairs.values[i] & 0xFFFF0000u);
    }
  } else {
    const auto vector = *reinterpret_cast<const Vector<Scalar, count>*>(from);
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) to[i] = static_cast<Accumulator<Scalar>>(vector.values[i]);
  }
}

// The other direction, rounding to nearest; two bf16 in one instruction. In loops and under conditions `to` is computed
// by counting vectors, not elements: nvcc 13 cuts stores at an address of the other kind into single elements.
template <int count, class Scalar>
__device__ inline void store(Scalar* to, const Accumulator<Scalar> (&from)[count]) {
  if constexpr (std::is_same_v<Scalar, bf16> && count % 2 == 0) {
    Vector<std::uint32_t, count / 2> pairs;
    TESSERA_UNROLL
    for (int i = 0; i < count / 2; ++i) pairs.values[i] = ptx::pack_bf16(from[2 * i], from[2 * i + 1]);
    *reinterpret_cast<Vector<std::uint32_t, count / 2>*>(to) = pairs;
  } else {
    Vector<Scalar, count> vector;
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) vector.values[i] = static_cast<Scalar>(from[i]);
    *reinterpret_cast<Vector<Scalar, count>*>(to) = vector;
  }
}

inline constexpr int warp_size = 32;
inline constexpr unsigned whole_warp = 0xFFFFFFFFu;

__device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % warp_size;
}
__device__ inline int warp_of_block() {
  return static_cast<int>(threadIdx.x) / warp_size;
}

// The sum, or the largest, over the warp's threads; every thread receives it.
template <class Value>
__device__ inline Value warp_sum(Value value) {
  TESSERA_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(whole_warp, value, distance);
  return value;
}
template <class Value>
__device__ inline Value warp_largest(Value value) {
  TESSERA_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) {
    const Value other = __shfl_xor_sync(whole_warp, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The sum over the block's threads (a multiple of 32), which every thread receives. `room`: 32 values of shared memory,
// which may be used again after it.
template <class Value>
__device__ inline Value block_sum(Value value, Value* room) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  value = warp_sum(value);
  if (lane == 0) room[warp] = value;
  __syncthreads();
  value = warp_sum(lane < warps ? room[lane] : Value{});
  __syncthreads();
  return value;
}

// Adds the sums of the block's other warps to those of the first, lane by lane. room: `count` floats for every thread.
template <int count>
__device__ inline void sum_over_warps(float (&sums)[count], float* room) {
  const int warps = static_cast<int>(blockDim.x) / warp_size, lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  TESSERA_UNROLL
  for (int i = 0; i < count; ++i) room[(warp * count + i) * warp_size + lane] = sums[i];
  __syncthreads();
  if (warp > 0) return;
  for (int other = 1; other < warps; ++other) {
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) sums[i] += room[(other * count + i) * warp_size + lane];
  }
}

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ inline std::byte* shared_memory() {
  extern __shared__ __align__(128) std::byte tessera_shared_memory[];
  return tessera_shared_memory;
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
