#include "tessera/core/simd.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <vector>

namespace tessera::test {
namespace {

// Floats whose upper half is 0x3F80 to 0x3F82, and whose lower half is near a tie; the extremes, infinity and NaN.
std::vector<float> hard_to_round() {
  std::vector<float> values;
  for (const std::uint32_t upper : {0x3F80u, 0x3F81u, 0x3F82u, 0xBF81u, 0x7F7Fu, 0x0080u, 0x7F80u})
    for (const std::uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
  return values;
}

TEST(Simd, StoresBf16AsItsConstructorRounds) {
  const std::vector<float> values = hard_to_round();
  std::vector<bf16> stored(values.size());
  simd::transform(
      static_cast<index>(values.size()), stored.data(), [](auto x) { return x; }, values.data());
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(stored[i].bits, bf16(values[i]).bits) << std::bit_cast<std::uint32_t>(values[i]);
}

TEST(Simd, LoadsBf16AsFloats) {
  constexpr index count = 2 * simd::lanes<bf16> + 3;
  std::vector<bf16> values(count);
  for (index i = 0; i < count; ++i) values[i] = bf16(static_cast<float>(i) - 5.5f);
  std::vector<float> loaded(count + 1, -1);
  simd::transform(
      count, loaded.data(), [](auto x) { return x; }, values.data());
  for (index i = 0; i < count; ++i) EXPECT_EQ(loaded[i], static_cast<float>(values[i]));
  EXPECT_EQ(loaded[count], -1);
  float sum = 0;
  for (index i = 0; i < count; ++i) sum += loaded[i];
  EXPECT_EQ((simd::reduce(
                count, [](auto x) { return x; }, static_cast<const bf16*>(values.data()))),
            sum);
}

}  // namespace
}  // namespace tessera::test
