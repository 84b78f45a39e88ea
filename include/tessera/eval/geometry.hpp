// Geometry of features: how far they have spread, and whether they have collapsed (docs/method.md, 5.4).
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <cmath>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/thread_pool.hpp"
#include "tessera/eval/knn.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

namespace detail {

using FeatureMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class Scalar>
[[nodiscard]] FeatureMatrix rows_of(Features<Scalar> features) {
  using Stored = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const Stored>(features.data, features.rows, features.width).template cast<double>();
}

// Rows divided by their norms, or by 1e-12 where they are shorter.
template <class Scalar>
[[nodiscard]] FeatureMatrix unit_rows(Features<Scalar> features) {
  FeatureMatrix rows = rows_of(features);
  for (index r = 0; r < rows.rows(); ++r) {
    const double norm = rows.row(r).norm();
    rows.row(r) /= norm > 1e-12 ? norm : 1e-12;
  }
  return rows;
}

// Throws Error unless there are at least `least` features.
template <class Scalar>
void need_rows(const char* what, Features<Scalar> z, index least) {
  if (z.rows < least || z.width < 1)
    fail("{}: {} feature(s) of width {}; it needs at least {}", what, z.rows, z.width, least);
}

// The singular values of a matrix, exact to rounding of the largest. Those of the triangle R of a QR decomposition are
// the upper half of the eigenvalues of [0 R^T; R 0]; R^T R would halve the digits of the small ones.
[[nodiscard]] inline Eigen::VectorXd singular_values(const FeatureMatrix& matrix) {
  const bool tall = matrix.rows() >= matrix.cols();
  const index size = tall ? matrix.cols() : matrix.rows();
  const Eigen::MatrixXd standing = tall ? Eigen::MatrixXd(matrix) : Eigen::MatrixXd(matrix.transpose());
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(standing);
  Eigen::MatrixXd both = Eigen::MatrixXd::Zero(2 * size, 2 * size);
  both.bottomLeftCorner(size, size) = qr.matrixQR().topRows(size).template triangularView<Eigen::Upper>();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(both, Eigen::EigenvaluesOnly);
  return solver.eigenvalues().tail(size).cwiseMax(0.0);
}

// exp(-sum p ln p) of shares p.
[[nodiscard]] inline double entropy_rank(const Eigen::VectorXd& shares) {
  double entropy = 0;
  for (const double share : shares)
    if (share > 0) entropy -= share * std::log(share);
  return std::exp(entropy);
}

}  // namespace detail

// The mean of |z1 - z2|^2 over positive pairs, row r of both, as unit vectors.
template <class Scalar>
[[nodiscard]] double alignment(Features<Scalar> z1, Features<Scalar> z2) {
  if (z1.rows != z2.rows || z1.width != z2.width || z1.rows < 1)
    fail("alignment: {} x {} features have no pairs among {} x {}", z1.rows, z1.width, z2.rows, z2.width);
  return (detail::unit_rows(z1) - detail::unit_rows(z2)).squaredNorm() / static_cast<double>(z1.rows);
}

// The logarithm of the mean of exp(-t |z_i - z_j|^2) over the pairs i < j of unit vectors; the same bits on any number
// of threads.
template <class Scalar>
[[nodiscard]] double uniformity(ThreadPool& pool, Features<Scalar> z, double t = 2) {
  detail::need_rows("uniformity", z, 2);
  const detail::FeatureMatrix unit = detail::unit_rows(z);
  const Eigen::VectorXd squares = unit.rowwise().squaredNorm();
  constexpr index block = 64;
  std::vector<double> sums(static_cast<std::size_t>((z.rows + block - 1) / block));
  pool.for_pieces(z.rows, block, [&](index first, index last, int) {
    const detail::FeatureMatrix cosines =
        unit.middleRows(first, last - first) * unit.bottomRows(z.rows - first).transpose();
    double sum = 0;
    for (index i = first; i < last; ++i) {
      const index others = z.rows - i - 1;
      const auto distances =
          squares.tail(others).transpose().array() + squares[i] - 2 * cosines.row(i - first).tail(others).array();
      sum += (-t * distances).exp().sum();
    }
    sums[static_cast<std::size_t>(first / block)] = sum;
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::log(2 * sum / (static_cast<double>(z.rows) * static_cast<double>(z.rows - 1)));
}

// RankMe (Garrido et al., arXiv 2210.02885): the number of directions that features use, from about 1 to the smaller of
// rows and width.
template <class Scalar>
[[nodiscard]] double effective_rank(Features<Scalar> z) {
  detail::need_rows("effective_rank", z, 1);
  const Eigen::VectorXd values = detail::singular_values(detail::rows_of(z));
  const double sum = values.sum();
  return detail::entropy_rank((values / (sum > 0 ? sum : 1)).array() + 1e-7);
}

// The mean over dimensions of the unbiased deviation of unit rows: 1 / sqrt(width) if they are spread evenly over all
// directions, 0 if they are equal.
template <class Scalar>
[[nodiscard]] double mean_deviation(Features<Scalar> z) {
  detail::need_rows("mean_deviation", z, 2);
  detail::FeatureMatrix unit = detail::unit_rows(z);
  unit.rowwise() -= unit.colwise().mean().eval();
  return (unit.colwise().squaredNorm() / static_cast<double>(z.rows - 1)).cwiseSqrt().mean();
}

// True if features of this width are nearly all the same: they have less than a tenth of the deviation of features that
// are spread evenly, and use fewer than 3 directions.
[[nodiscard]] inline bool have_collapsed(double effective_rank, double deviation, index width) {
  return deviation * std::sqrt(static_cast<double>(width)) < 0.1 && effective_rank < 3;
}

// The mean cosine of the pairs i < j: 1 if all rows have one direction.
template <class Scalar>
[[nodiscard]] double mean_cosine(Features<Scalar> z) {
  detail::need_rows("mean_cosine", z, 2);
  const detail::FeatureMatrix unit = detail::unit_rows(z);
  const double rows = static_cast<double>(z.rows);
  return (unit.colwise().sum().squaredNorm() - unit.squaredNorm()) / (rows * (rows - 1));
}

// The mean length of rows.
template <class Scalar>
[[nodiscard]] double mean_norm(Features<Scalar> z) {
  detail::need_rows("mean_norm", z, 1);
  return detail::rows_of(z).rowwise().norm().mean();
}

// Two counts of the directions in which features differ, by the eigenvalues l of their covariance. Both are 0 if all
// features are equal.
struct CovarianceRanks {
  double participation;  // (sum l)^2 / sum l^2
  double entropy;        // the exponential of the entropy of the shares l / sum l
};

template <class Scalar>
[[nodiscard]] CovarianceRanks covariance_ranks(Features<Scalar> z) {
  detail::need_rows("covariance_ranks", z, 2);
  detail::FeatureMatrix centred = detail::rows_of(z);
  centred.rowwise() -= centred.colwise().mean().eval();
  const Eigen::VectorXd eigenvalues = detail::singular_values(centred).cwiseAbs2();
  const double sum = eigenvalues.sum();
  if (!(sum > 0)) return {0, 0};
  return {sum * sum / eigenvalues.squaredNorm(), detail::entropy_rank(eigenvalues / sum)};
}

}  // namespace eval
}  // namespace TESSERA_ABI
}  // namespace tessera
