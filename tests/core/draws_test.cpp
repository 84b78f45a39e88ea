#include "tessera/core/draws.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace tessera::test {
namespace {

// Mean 1/2 and variance 1 / (4 (2 alpha + 1)), within five standard errors of 20,000 draws; for alpha = 1 the draws are
// uniform (the largest distance of the distributions, by Kolmogorov and Smirnov).
TEST(Draws, BetaHasItsMoments) {
  constexpr int count = 20000;
  for (const double alpha : {0.05, 0.2, 0.8, 1.0, 3.0, 100.0}) {
    Random random(1, Purpose::test, 0, 0);
    std::vector<double> draws;
    for (int i = 0; i < count; ++i) draws.push_back(draw_beta(alpha, random));
    double mean = 0, square = 0, fourth = 0;
    for (const double x : draws) {
      ASSERT_TRUE(x >= 0 && x <= 1) << alpha;
      mean += x / count;
    }
    for (const double x : draws) {
      square += (x - 0.5) * (x - 0.5) / count;
      fourth += (x - 0.5) * (x - 0.5) * (x - 0.5) * (x - 0.5) / count;
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(variance / count)) << alpha;
    EXPECT_NEAR(square, variance, 5 * std::sqrt((fourth - square * square) / count)) << alpha;
    if (alpha != 1) continue;
    std::ranges::sort(draws);
    double distance = 0;
    for (int i = 0; i < count; ++i)
      distance = std::max(distance, std::abs(draws[static_cast<std::size_t>(i)] - (i + 0.5) / count));
    EXPECT_LT(distance, 1.63 / std::sqrt(count));
  }
}

TEST(Draws, BetaOfExtremeShapesIsANumber) {
  Random random(1, Purpose::test, 0, 0);
  for (const double alpha : {1e-6, 1e-3, 1e6, 1e300})
    for (int i = 0; i < 1000; ++i) {
      const double x = draw_beta(alpha, random);
      EXPECT_TRUE(x >= 0 && x <= 1) << alpha;
    }
}

// docs/method.md, 3.11.
TEST(Draws, CutMixBoxHasTheKnownValues) {
  const Mixing corner = Mixing::cutmix(0.75, 224, 0, 0);
  EXPECT_EQ(corner.y0, 0);
  EXPECT_EQ(corner.y1, 56);
  EXPECT_EQ(corner.x0, 0);
  EXPECT_EQ(corner.x1, 56);
  EXPECT_EQ(corner.lambda, 0.9375);
  const Mixing odd = Mixing::cutmix(0.5, 15, 7, 14);  // 10 of 15, cut off on the right
  EXPECT_EQ(odd.y0, 2);
  EXPECT_EQ(odd.y1, 12);
  EXPECT_EQ(odd.x0, 9);
  EXPECT_EQ(odd.x1, 15);
  EXPECT_DOUBLE_EQ(odd.lambda, 1 - 60.0 / 225);
  EXPECT_EQ(Mixing::cutmix(1, 224, 100, 100).lambda, 1);
  EXPECT_EQ(Mixing::cutmix(0, 224, 112, 112).lambda, 0);
}

TEST(Draws, MixingDependsOnSeedAndStepAlone) {
  const MixingOdds odds{0.8, 1.0, 1.0, 0.5};
  const auto at = [&](std::uint64_t seed, std::int64_t step) { return mixing_of({seed, step}, odds, 224).lambda; };
  EXPECT_EQ(at(1, 7), at(1, 7));
  EXPECT_NE(at(1, 7), at(1, 8));
  EXPECT_NE(at(1, 7), at(2, 7));
}

struct Counts {
  int none = 0, mixup = 0, cutmix = 0;
};
Counts count(const MixingOdds& odds) {
  Counts counts;
  for (std::int64_t step = 0; step < 4000; ++step) {
    const Mixing mixing = mixing_of({3, step}, odds, 32);
    EXPECT_TRUE(mixing.kind != Mixing::Kind::none || mixing.lambda == 1);
    counts.none += mixing.kind == Mixing::Kind::none;
    counts.mixup += mixing.kind == Mixing::Kind::mixup;
    counts.cutmix += mixing.kind == Mixing::Kind::cutmix;
  }
  return counts;
}

TEST(Draws, MixingFollowsItsOdds) {
  const Counts both = count({0.8, 1, 1, 0.3});
  EXPECT_EQ(both.none, 0);
  EXPECT_NEAR(both.cutmix, 1200, 5 * 29);
  const Counts sometimes = count({0.8, 1, 0.25, 0.5});
  EXPECT_NEAR(sometimes.none, 3000, 5 * 28);
  EXPECT_NEAR(sometimes.mixup, 500, 5 * 21);
  EXPECT_EQ(count({0.8, 0, 1, 1}).mixup, 4000);
  EXPECT_EQ(count({0, 1, 1, 0}).cutmix, 4000);
  EXPECT_EQ(count({0, 0, 1, 0.5}).none, 4000);
}

TEST(Draws, DropPathKeepsTheMean) {
  constexpr int depth = 4, images = 5000;
  constexpr double rate = 0.3;
  for (int block = 0; block < depth; ++block) {
    const double r = rate * block / (depth - 1);
    double sum = 0;
    for (int image = 0; image < images; ++image) {
      Random random = drop_path_stream({1, 2}, image);
      double scale = 0;
      for (int branch = 0; branch <= 2 * block; ++branch)
        scale = drop_path_scale(rate, block, depth, static_cast<double>(random.uniform()));
      EXPECT_TRUE(scale == 0 || scale == 1 / (1 - r));
      sum += scale;
    }
    EXPECT_NEAR(sum / images, 1, 5 * std::sqrt(r / (1 - r) / images)) << block;
  }
  EXPECT_EQ(drop_path_scale(0.3, 0, 1, 0.0), 1);
  EXPECT_EQ(drop_path_scale(0.3, 1, 2, 0.29999), 0);
  EXPECT_EQ(drop_path_scale(0.0, 1, 2, 0.0), 1);
}

}  // namespace
}  // namespace tessera::test
