// Geometry of features on the unit sphere (Wang and Isola, arXiv 2005.10242; docs/method.md, 5.4).
#pragma once

#include <Eigen/Core>
#include <cmath>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/eval/knn.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

namespace detail {

// Rows divided by their norms, or by 1e-12 where they are shorter.
template <class Scalar>
[[nodiscard]] auto unit_rows(Features<Scalar> features) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Stored = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix rows = Eigen::Map<const Stored>(features.data, features.rows, features.width).template cast<double>();
  for (index r = 0; r < rows.rows(); ++r) {
    const double norm = rows.row(r).norm();
    rows.row(r) /= norm > 1e-12 ? norm : 1e-12;
  }
  return rows;
}

}  // namespace detail

// The mean of |z1 - z2|^2 over positive pairs, row r of both, as unit vectors.
template <class Scalar>
[[nodiscard]] double alignment(Features<Scalar> z1, Features<Scalar> z2) {
  if (z1.rows != z2.rows || z1.width != z2.width || z1.rows < 1)
    fail("alignment: {} x {} features have no pairs among {} x {}", z1.rows, z1.width, z2.rows, z2.width);
  return (detail::unit_rows(z1) - detail::unit_rows(z2)).squaredNorm() / static_cast<double>(z1.rows);
}

// The logarithm of the mean of exp(-t |z_i - z_j|^2) over the pairs i < j of unit vectors.
template <class Scalar>
[[nodiscard]] double uniformity(Features<Scalar> z, double t = 2) {
  if (z.rows < 2) fail("uniformity: {} feature(s); pairs need at least 2", z.rows);
  const auto unit = detail::unit_rows(z);
  double sum = 0;
  for (index i = 0; i < z.rows; ++i)
    for (index j = i + 1; j < z.rows; ++j) sum += std::exp(-t * (unit.row(i) - unit.row(j)).squaredNorm());
  return std::log(2 * sum / (static_cast<double>(z.rows) * static_cast<double>(z.rows - 1)));
}

}  // namespace eval
}  // namespace TESSERA_ABI
}  // namespace tessera
