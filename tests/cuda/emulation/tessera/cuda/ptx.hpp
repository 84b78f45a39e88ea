// The instructions of include/tessera/cuda/ptx.hpp, after the same pages of the PTX ISA, for the emulated device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tessera/core/abi.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda::ptx {

inline std::uint32_t pack_bf16(float low, float high) {
  return std::uint32_t{bf16(high).bits} << 16 | bf16(low).bits;
}

inline float half_of(std::uint32_t pair, int which) {
  bf16 value;
  value.bits = static_cast<std::uint16_t>(which == 0 ? pair : pair >> 16);
  return static_cast<float>(value);
}

inline float exp2(float x) {
  return std::exp2(x);
}

inline void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  std::uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char* const all = emulation::exchange(own, sizeof(own));
  const auto of_lane = [&](int lane, int which) {
    std::uint32_t value;
    std::memcpy(&value, all + lane * 64 + which * 4, 4);
    return value;
  };
  const auto left = [&](int row, int k) {
    const int lane = row % 8 * 4 + k % 8 / 2, which = row / 8 + k / 8 * 2;
    return half_of(of_lane(lane, which), k % 2);
  };
  const auto right = [&](int k, int column) { return half_of(of_lane(column * 4 + k % 8 / 2, 4 + k / 8), k % 2); };
  const int group = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += left(row, k) * right(k, column);
    d[i] += sum;
  }
}

inline std::uint16_t shared_value(const unsigned char* all, int matrix, int row, int column) {
  const unsigned char* address;
  std::memcpy(&address, all + (8 * matrix + row) * 64, sizeof(address));
  std::uint16_t value;
  std::memcpy(&value, address + 2 * column, 2);
  return value;
}

// Rows must be aligned, and the eight rows of a matrix lie in different banks of shared memory.
inline void check_rows(const unsigned char* all) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row) {
      const unsigned char* address;
      std::memcpy(&address, all + (8 * matrix + row) * 64, sizeof(address));
      const auto bytes = reinterpret_cast<std::uintptr_t>(address);
      const unsigned bank = 1u << bytes / 16 % 8;
      if (bytes % 16 != 0) emulation::stop("a row of a matrix in shared memory is not aligned to 16 bytes");
      if ((banks & bank) != 0) emulation::stop("two rows of a matrix in shared memory are in the same banks");
      banks |= bank;
    }
  }
}

inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const unsigned char* const all = emulation::exchange(&row, sizeof(row));
  check_rows(all);
  const int group = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int matrix = 0; matrix < 4; ++matrix)
    to[matrix] =
        std::uint32_t{shared_value(all, matrix, group, 2 * t + 1)} << 16 | shared_value(all, matrix, group, 2 * t);
  emulation::warp_barrier();
}

inline void load_transposed_matrices(std::uint32_t (&to)[4], const void* row) {
  const unsigned char* const all = emulation::exchange(&row, sizeof(row));
  check_rows(all);
  const int group = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int matrix = 0; matrix < 4; ++matrix)
    to[matrix] =
        std::uint32_t{shared_value(all, matrix, 2 * t + 1, group)} << 16 | shared_value(all, matrix, 2 * t, group);
  emulation::warp_barrier();
}

// Copies are made when they are waited for, as late as the device may.
inline void copy_16(void* shared, const void* global, bool valid = true) {
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    emulation::stop("a copy of 16 bytes that is not aligned to 16 bytes");
  emulation::start_copy(shared, valid ? global : nullptr);
}
inline void close_copies() {
  emulation::close_copies();
}
template <int pending>
void wait_for_copies() {
  emulation::wait_for_copies(pending);
}

}  // namespace cuda::ptx
}  // namespace TESSERA_ABI
}  // namespace tessera
