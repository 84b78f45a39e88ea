#include "tessera/eval/geometry.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/fixture.hpp"
#include "tessera/core/random.hpp"

namespace tessera::test {
namespace {

TEST(Geometry, EqualsTheReference) {
  const Fixture fixture("study_evaluation");
  const auto train = fixture.values<double>("train");
  const index rows = fixture.tensor("train").shape[0], width = fixture.tensor("train").shape[1];
  const auto part = [&](index first, index count) {
    return eval::Features<double>{train.data() + first * width, count, width};
  };
  ThreadPool pool(2);
  EXPECT_NEAR(eval::alignment(part(0, 30), part(30, 30)), fixture.tensor("alignment").values[0], 1e-12);
  EXPECT_NEAR(eval::uniformity(pool, part(0, rows)), fixture.tensor("uniformity").values[0], 1e-12);
}

// More features than dimensions, fewer, and features that have almost collapsed.
TEST(Geometry, SpectraAndSignsOfCollapseEqualTheReference) {
  const Fixture fixture("study_evaluation");
  for (const std::string name : {"train", "wide", "near"}) {
    const auto values = fixture.values<double>(name);
    const eval::Features<double> z{values.data(), fixture.tensor(name).shape[0], fixture.tensor(name).shape[1]};
    const auto check = [&](const std::string& key, double value) {
      const double expected = fixture.tensor(key).values[0];
      EXPECT_NEAR(value, expected, 1e-9 * std::abs(expected)) << key;
    };
    const eval::CovarianceRanks ranks = eval::covariance_ranks(z);
    check("rankme." + name, eval::effective_rank(z));
    check("collapse." + name + ".std", eval::mean_deviation(z));
    check("collapse." + name + ".cosine", eval::mean_cosine(z));
    check("collapse." + name + ".participation", ranks.participation);
    check("collapse." + name + ".effective_rank", ranks.entropy);
    check("collapse." + name + ".norm", eval::mean_norm(z));
  }
}

// docs/method.md, 5.4: two opposite unit vectors give 4 and -8.
TEST(Geometry, HasTheKnownValues) {
  const std::vector<float> z{3, 0, -2, 0};
  const eval::Features<float> one{z.data(), 1, 2}, other{z.data() + 2, 1, 2}, both{z.data(), 2, 2};
  ThreadPool pool(1);
  EXPECT_NEAR(eval::alignment(one, other), 4, 1e-12);
  EXPECT_NEAR(eval::uniformity(pool, both), -8, 1e-12);
  EXPECT_NEAR(eval::mean_cosine(both), -1, 1e-12);
  EXPECT_NEAR(eval::mean_norm(both), 2.5, 1e-12);
  EXPECT_NEAR(eval::mean_deviation(both), std::sqrt(2.0) / 2, 1e-12);  // sqrt(2) and 0
  EXPECT_NEAR(eval::covariance_ranks(both).participation, 1, 1e-12);
}

// docs/method.md, 5.4: c times the identity of size d has the rank d.
TEST(Geometry, RankOfTheIdentityIsItsSize) {
  constexpr index size = 30;
  std::vector<double> identity(size * size);
  for (index i = 0; i < size; ++i) identity[static_cast<std::size_t>(i * size + i)] = 7;
  const eval::Features<double> z{identity.data(), size, size};
  EXPECT_NEAR(eval::effective_rank(z), size, 1e-3);  // 1e-7 is added to each share
  EXPECT_NEAR(eval::covariance_ranks(z).participation, size - 1, 1e-9);
}

TEST(Geometry, EqualFeaturesHaveCollapsed) {
  for (const double value : {0.0, 3.0}) {
    const std::vector<double> values(40 * 8, value);
    const eval::Features<double> z{values.data(), 40, 8};
    ThreadPool pool(1);
    EXPECT_NEAR(eval::effective_rank(z), 1, 2e-5);
    EXPECT_NEAR(eval::mean_deviation(z), 0, 1e-15);
    EXPECT_NEAR(eval::uniformity(pool, z), 0, 1e-12);
    EXPECT_TRUE(eval::have_collapsed(eval::effective_rank(z), eval::mean_deviation(z), z.width));
    EXPECT_EQ(eval::covariance_ranks(z).entropy, 0);
  }
}

// A tenth of the spread, 1 / sqrt(100), and 3 directions: docs/method.md, 5.4.
TEST(Geometry, CollapseIsLittleDeviationInFewDirections) {
  EXPECT_TRUE(eval::have_collapsed(2.9, 0.0099, 100));
  EXPECT_FALSE(eval::have_collapsed(3.1, 0.0099, 100));
  EXPECT_FALSE(eval::have_collapsed(2.9, 0.0101, 100));
  EXPECT_FALSE(eval::have_collapsed(std::nan(""), std::nan(""), 100));
}

TEST(Geometry, UniformityHasTheSameBitsOnAnyNumberOfThreads) {
  std::vector<float> values(333 * 24);
  Random random(1, Purpose::test, 0, 0);
  for (float& value : values) value = random.uniform(-1, 1);
  const eval::Features<float> z{values.data(), 333, 24};
  ThreadPool one(1), three(3);
  EXPECT_EQ(eval::uniformity(one, z), eval::uniformity(three, z));
}

TEST(Geometry, RefusesTooFewFeatures) {
  const std::vector<float> z{3, 0, -2, 0};
  const eval::Features<float> none{z.data(), 0, 2}, one{z.data(), 1, 2}, both{z.data(), 2, 2};
  ThreadPool pool(1);
  EXPECT_THROW(static_cast<void>(eval::alignment(one, both)), Error);
  EXPECT_THROW(static_cast<void>(eval::uniformity(pool, one)), Error);
  EXPECT_THROW(static_cast<void>(eval::mean_deviation(one)), Error);
  EXPECT_THROW(static_cast<void>(eval::mean_cosine(one)), Error);
  EXPECT_THROW(static_cast<void>(eval::covariance_ranks(one)), Error);
  EXPECT_THROW(static_cast<void>(eval::effective_rank(none)), Error);
  EXPECT_THROW(static_cast<void>(eval::mean_norm(none)), Error);
}

}  // namespace
}  // namespace tessera::test
