#include "tessera/eval/knn.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"

namespace tessera::test {
namespace {

TEST(Knn, VotesEqualTheReference) {
  const Fixture fixture("objectives");
  const auto bank = fixture.values<double>("knn.train"), queries = fixture.values<double>("knn.query");
  const auto labels = fixture.values<int>("knn.labels");
  const index width = fixture.tensor("knn.train").shape[1];
  ThreadPool pool(2);
  const auto votes =
      eval::knn_votes(pool, eval::Features<double>{bank.data(), static_cast<index>(labels.size()), width}, labels,
                      eval::Features<double>{queries.data(), fixture.tensor("knn.query").shape[0], width},
                      static_cast<int>(fixture.number("knn_classes")),
                      {static_cast<int>(fixture.number("knn_k")), fixture.number("knn_tau")});
  expect_close("votes", votes.data(), fixture.tensor("knn.votes"));
}

TEST(Knn, EqualSimilaritiesAreTakenInOrder) {
  const std::vector<float> bank{1, 0, 0, 1, 2, 0, 3, 0}, query{1, 0};
  ThreadPool pool(1);
  const auto found =
      eval::nearest(pool, eval::Features<float>{bank.data(), 4, 2}, eval::Features<float>{query.data(), 1, 2}, 3);
  EXPECT_EQ(found[0].row, 0);
  EXPECT_EQ(found[1].row, 2);
  EXPECT_EQ(found[2].row, 3);
}

}  // namespace
}  // namespace tessera::test
