// Weighted k-nearest-neighbour classification of features (docs/method.md, 5.2).
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/thread_pool.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

// Row-major features, `width` to a row.
template <class Scalar>
struct Features {
  const Scalar* data;
  index rows;
  index width;
};

struct KnnOptions {
  int k = 20;
  double temperature = 0.07;  // a neighbour of cosine similarity s votes with weight exp(s / temperature)
};

template <class Scalar>
struct Neighbour {
  int row;  // in the bank
  Scalar similarity;
};

// The k most similar rows of the bank for each query (queries x k), nearest first; of equals the earlier row. Cosine
// similarity. k is at most the size of the bank.
template <class Scalar>
[[nodiscard]] std::vector<Neighbour<Scalar>> nearest(ThreadPool& pool, Features<Scalar> bank, Features<Scalar> queries,
                                                     index k) {
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  if (k < 1 || k > bank.rows) fail("k-NN: k = {} neighbours of a bank of {} features", k, bank.rows);
  const auto rows_of = [](Features<Scalar> features) {
    return Eigen::Map<const Matrix>(features.data, features.rows, features.width);
  };
  const auto scales_of = [](const auto& rows) -> Vector {
    return rows.rowwise().norm().cwiseMax(Scalar(1e-12)).cwiseInverse();
  };
  // The bank may be large: it is not copied.
  const auto known = rows_of(bank), asked = rows_of(queries);
  const Vector bank_scale = scales_of(known), query_scale = scales_of(asked);
  std::vector<Neighbour<Scalar>> result(static_cast<std::size_t>(queries.rows * k));
  constexpr index block = 64;
  pool.for_pieces(queries.rows, block, [&](index first, index last, int) {
    const Matrix similarity = query_scale.segment(first, last - first).asDiagonal() *
                              (asked.middleRows(first, last - first) * known.transpose()) * bank_scale.asDiagonal();
    std::vector<Neighbour<Scalar>> row(static_cast<std::size_t>(bank.rows));
    for (index q = first; q < last; ++q) {
      for (index b = 0; b < bank.rows; ++b)
        row[static_cast<std::size_t>(b)] = {static_cast<int>(b), similarity(q - first, b)};
      const auto nearer = [](const Neighbour<Scalar>& a, const Neighbour<Scalar>& b) {
        return a.similarity > b.similarity || (a.similarity == b.similarity && a.row < b.row);
      };
      std::nth_element(row.begin(), row.begin() + (k - 1), row.end(), nearer);
      std::sort(row.begin(), row.begin() + k, nearer);
      std::copy_n(row.begin(), k, result.begin() + q * k);
    }
  });
  return result;
}

// Each query's votes for each class (queries x classes). labels of the bank lie in [0, classes).
template <class Scalar>
[[nodiscard]] std::vector<Scalar> knn_votes(ThreadPool& pool, Features<Scalar> bank, std::span<const int> labels,
                                            Features<Scalar> queries, int classes, const KnnOptions& options = {}) {
  const index k = options.k < bank.rows ? options.k : bank.rows;
  const auto neighbours = nearest(pool, bank, queries, k);
  std::vector<Scalar> votes(static_cast<std::size_t>(queries.rows * classes), Scalar(0));
  for (std::size_t i = 0; i < neighbours.size(); ++i) {
    const int label = labels[static_cast<std::size_t>(neighbours[i].row)];
    votes[i / static_cast<std::size_t>(k) * static_cast<std::size_t>(classes) + static_cast<std::size_t>(label)] +=
        std::exp(neighbours[i].similarity / static_cast<Scalar>(options.temperature));
  }
  return votes;
}

// The share of queries whose most voted class is their own. Labels are not negative.
template <class Scalar>
[[nodiscard]] double knn_accuracy(ThreadPool& pool, Features<Scalar> bank, std::span<const int> labels,
                                  Features<Scalar> queries, std::span<const int> query_labels,
                                  const KnnOptions& options = {}) {
  const auto [least, most] = std::minmax_element(labels.begin(), labels.end());
  if (*least < 0) fail("k-NN: the label {} is negative", *least);
  const int classes = *most + 1;
  const std::vector<Scalar> votes = knn_votes(pool, bank, labels, queries, classes, options);
  index right = 0;
  for (std::size_t q = 0; q < query_labels.size(); ++q) {
    const auto first = votes.begin() + static_cast<index>(q) * classes;
    right += std::max_element(first, first + classes) - first == query_labels[q];
  }
  return static_cast<double>(right) / static_cast<double>(query_labels.size());
}

}  // namespace eval
}  // namespace TESSERA_ABI
}  // namespace tessera
