// Counter-based random numbers: a number depends on the name of its stream and its place in it, not on the thread, rank
// or time that draws it (docs/method.md, 1.4).
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): for each 64-bit key a
// bijection of the 128-bit counter.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                                                std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

// The use of a stream of random numbers; part of its name (docs/method.md, 1.4).
enum class Purpose : std::uint32_t {
  initial_value = 1,
  permutation = 2,
  view = 3,
  drop_path = 5,
  mixing = 6,
  mask = 7,
  monitor = 7,
  test = 255
};

// Seed and number of a step, which name its random numbers. Lies in memory of the backend, so that each replay of a
// recording reads new values.
struct StepNumber {
  std::uint64_t seed = 0;
  std::int64_t step = 0;  // 0, 1, ...
};

// The stream named (seed, purpose, major, minor), e.g. (seed, view, epoch * views + view, sample).
class Random {
 public:
  TESSERA_HOST_DEVICE constexpr Random(std::uint64_t seed, Purpose purpose, std::uint32_t major, std::uint32_t minor)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        counter_{0, minor, major, static_cast<std::uint32_t>(purpose)} {}

  // 32 uniform bits.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr std::uint32_t bits() {
    if (used_ == 4) {
      block_ = philox(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return block_[used_++];
  }

  // Moves to number 4 * block of the stream, counted from 0.
  TESSERA_HOST_DEVICE constexpr void start_at(std::uint32_t block) {
    counter_[0] = block;
    used_ = 4;
  }

  // Uniform in [0, 1), a multiple of 2^-24.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }

  // Uniform in [low, high).
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr float uniform(float low, float high) {
    return low + (high - low) * uniform();
  }

  // Uniform integer in [0, bound) without bias (Lemire, arXiv 1805.10941). bound > 0.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr std::uint32_t below(std::uint32_t bound) {
    std::uint64_t product = std::uint64_t{bits()} * bound;
    if (static_cast<std::uint32_t>(product) < bound) {
      const std::uint32_t threshold = (0u - bound) % bound;
      while (static_cast<std::uint32_t>(product) < threshold) product = std::uint64_t{bits()} * bound;
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

  // Standard normal, by Box-Muller from two draws.
  [[nodiscard]] double normal() {
    const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(bits()) + 0.5) * 0x1p-32));
    return radius * std::cos(2.0 * std::numbers::pi * static_cast<double>(bits()) * 0x1p-32);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> block_{};
  std::uint32_t used_ = 4;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
