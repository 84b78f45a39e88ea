#include "tessera/core/random.hpp"

#include <gtest/gtest.h>

#include <array>

#include "tessera/core/math.hpp"

namespace tessera::test {
namespace {

using Block = std::array<std::uint32_t, 4>;

TEST(Philox, KnownAnswers) {  // of the Random123 distribution
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, DrawsStayInRangeAndFillIt) {
  Random random(1, Purpose::test, 2, 3);
  double sum = 0, normal_sum = 0, normal_squares = 0;
  std::array<int, 5> counts{};
  constexpr int draws = 100000;
  for (int i = 0; i < draws; ++i) {
    const float u = random.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += static_cast<double>(u);
    ++counts[random.below(5)];
    const double n = random.normal();
    normal_sum += n;
    normal_squares += n * n;
  }
  EXPECT_NEAR(sum / draws, 0.5, 0.005);
  EXPECT_NEAR(normal_sum / draws, 0, 0.02);
  EXPECT_NEAR(normal_squares / draws, 1, 0.02);
  for (const int count : counts) EXPECT_NEAR(count, draws / 5, 500);
}

TEST(Random, StreamsOfOtherNamesDiffer) {
  Random a(1, Purpose::test, 2, 3), same(1, Purpose::test, 2, 3), other(1, Purpose::view, 2, 3);
  const auto first = a.bits();
  EXPECT_EQ(first, same.bits());
  EXPECT_NE(first, other.bits());
}

TEST(Math, FunctionsOfPacksAreAccurate) {
  using Pack = simd::Pack<float>;
  double worst_exp = 0, worst_cdf = 0, worst_pdf = 0;
  for (double x = -13; x <= 13; x += 1e-3) {
    const float at = static_cast<float>(x);
    const double exact = static_cast<double>(at);
    const auto relative = [](float value, double expected) {
      return std::abs(static_cast<double>(value) / expected - 1);
    };
    worst_exp = std::max(worst_exp, relative(math::exp<Pack>(Pack{} + at)[0], std::exp(exact)));
    const auto normal = math::normal<Pack>(Pack{} + at);
    const double cdf = 0.5 * std::erfc(-exact / std::numbers::sqrt2);
    if (x > -9) worst_cdf = std::max(worst_cdf, relative(normal.cdf[0], cdf));
    if (std::abs(x) < 9)
      worst_pdf = std::max(worst_pdf, relative(normal.pdf[0], std::exp(-exact * exact / 2) * std::numbers::inv_sqrtpi /
                                                                  std::numbers::sqrt2));
  }
  EXPECT_LT(worst_exp, 3e-7);
  EXPECT_LT(worst_cdf, 5e-6);  // far out, x^2 / 2 itself is rounded
  EXPECT_LT(worst_pdf, 5e-6);
  EXPECT_EQ(math::exp<Pack>(Pack{} - 200.0f)[0], 0);
  EXPECT_EQ(math::exp<Pack>(Pack{} + 200.0f)[0], HUGE_VALF);
  EXPECT_TRUE(std::isnan(math::exp<Pack>(Pack{} + NAN)[0]));
}

}  // namespace
}  // namespace tessera::test
