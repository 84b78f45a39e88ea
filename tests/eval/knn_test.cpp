#include "tessera/eval/knn.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"
#include "tessera/eval/accuracy.hpp"

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

// Votes, and how many queries have their class first or among the first two. Of one neighbour all votes but one are 0:
// which class is second is up to the order of equal scores.
TEST(Knn, VotesAndHitsEqualTheStudys) {
  const Fixture fixture("study_evaluation");
  const auto bank = fixture.values<double>("train"), queries = fixture.values<double>("test");
  const auto labels = fixture.values<int>("labels"), query_labels = fixture.values<int>("test_labels");
  const index width = fixture.tensor("train").shape[1];
  const eval::Features<double> bank_rows{bank.data(), static_cast<index>(labels.size()), width},
      query_rows{queries.data(), static_cast<index>(query_labels.size()), width};
  ThreadPool pool(2);
  const auto check = [&](const std::string& name, const eval::KnnOptions& options) {
    const auto votes = eval::knn_votes(pool, bank_rows, labels, query_rows, 5, options);
    expect_close(name + ".votes", votes.data(), fixture.tensor(name + ".votes"));
    const auto& hits = fixture.tensor(name + ".hits").values;
    EXPECT_EQ(eval::top_hits<double>(votes, query_labels, 1), hits[0]) << name;
    if (options.k > 1) {
      EXPECT_EQ(eval::top_hits<double>(votes, query_labels, 2), hits[1]) << name;
    }
    EXPECT_EQ(eval::knn_accuracy(pool, bank_rows, labels, query_rows, query_labels, options),
              hits[0] / static_cast<double>(query_labels.size()));
  };
  check("knn_1_0.07", {1, 0.07});
  check("knn_7_0.07", {7, 0.07});
  check("knn_20_0.1", {20, 0.1});
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
