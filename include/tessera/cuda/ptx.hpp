// Instructions of the device that CUDA C++ has no function for. Compute capability 8.0 and later.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::ptx {

// Two floats rounded to bf16 in one register, `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x by one instruction. Results below the normal range are zero.
__device__ inline float exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// d (16 x 8) += a (16 x 16) b (16 x 8), by a whole warp: bf16 operands, float sums. A register of a or b has two
// neighbouring values. With group = lane / 4 and t = lane % 4, a thread holds (PTX ISA, "Matrix Fragments for
// mma.m16n8k16"):
// clang-format off
//   a[0] = A(group,     2t..2t+1)     a[2] = A(group,     2t+8..2t+9)
//   a[1] = A(group + 8, 2t..2t+1)     a[3] = A(group + 8, 2t+8..2t+9)
//   b[0] = B(2t..2t+1, group)         b[1] = B(2t+8..2t+9, group)
//   d[0..1] = D(group, 2t..2t+1)      d[2..3] = D(group + 8, 2t..2t+1)
// clang-format on
__device__ inline void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads four 8 x 8 matrices of 16-bit values from shared memory, by a whole warp: lane 8i + r gives the address of row
// r of matrix i (16 bytes, aligned); register i receives of matrix i the values (lane / 4, 2 (lane % 4)..+1).
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// The same with each matrix transposed: register i receives of matrix i the values (2 (lane % 4)..+1, lane / 4).
__device__ inline void load_transposed_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// Starts copying 16 bytes from global to shared memory, both aligned to 16; zeros if not `valid`.
__device__ inline void copy_16(void* shared, const void* global, bool valid = true) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// Closes the group of copies started so far, and waits until at most `pending` groups are under way (for this thread's
// copies: a barrier must follow before others read them).
__device__ inline void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace cuda::ptx
}  // namespace TESSERA_ABI
}  // namespace tessera
