#include "tessera/eval/geometry.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/fixture.hpp"

namespace tessera::test {
namespace {

TEST(Geometry, EqualsTheReference) {
  const Fixture fixture("study_evaluation");
  const auto train = fixture.values<double>("train");
  const index rows = fixture.tensor("train").shape[0], width = fixture.tensor("train").shape[1];
  const auto part = [&](index first, index count) {
    return eval::Features<double>{train.data() + first * width, count, width};
  };
  EXPECT_NEAR(eval::alignment(part(0, 30), part(30, 30)), fixture.tensor("alignment").values[0], 1e-12);
  EXPECT_NEAR(eval::uniformity(part(0, rows)), fixture.tensor("uniformity").values[0], 1e-12);
}

// docs/method.md, 5.4: two opposite unit vectors give 4 and -8.
TEST(Geometry, HasTheKnownValues) {
  const std::vector<float> z{3, 0, -2, 0};
  const eval::Features<float> one{z.data(), 1, 2}, other{z.data() + 2, 1, 2}, both{z.data(), 2, 2};
  EXPECT_NEAR(eval::alignment(one, other), 4, 1e-12);
  EXPECT_NEAR(eval::uniformity(both), -8, 1e-12);
  EXPECT_THROW(static_cast<void>(eval::uniformity(one)), Error);
  EXPECT_THROW(static_cast<void>(eval::alignment(one, both)), Error);
}

}  // namespace
}  // namespace tessera::test
