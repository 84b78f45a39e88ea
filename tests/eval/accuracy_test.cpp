#include "tessera/eval/accuracy.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tessera/core/errors.hpp"

namespace tessera::test {
namespace {

TEST(TopHits, CountLabelsAmongTheLargest) {
  const std::vector<float> scores{1, 3, 2, 5, 4, 0};
  EXPECT_EQ(eval::top_hits<float>(scores, std::vector{1, 0}, 1), 2);
  EXPECT_EQ(eval::top_hits<float>(scores, std::vector{2, 2}, 1), 0);
  EXPECT_EQ(eval::top_hits<float>(scores, std::vector{2, 2}, 2), 1);
  EXPECT_EQ(eval::top_hits<float>(scores, std::vector{2, 2}, 5), 2);
}

TEST(TopHits, OfEqualScoresTakeTheEarlierClass) {
  const std::vector<double> scores{1, 1, 1};
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{0}, 1), 1);
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{1}, 1), 0);
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{1}, 2), 1);
}

TEST(TopHits, AreNoneForUnknownLabelsAndNoNumbers) {
  const std::vector<double> scores{1, std::numeric_limits<double>::quiet_NaN()};
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{2}, 2), 0);
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{-1}, 2), 0);
  EXPECT_EQ(eval::top_hits<double>(scores, std::vector{1}, 2), 0);
  EXPECT_THROW(static_cast<void>(eval::top_hits<double>(scores, std::vector{0, 0, 0}, 1)), Error);
}

}  // namespace
}  // namespace tessera::test
