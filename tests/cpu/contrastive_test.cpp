#include "tessera/cpu/contrastive.hpp"

#include <algorithm>

#include "support/definition.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Contrastive : public testing::Test {};
TYPED_TEST_SUITE(Contrastive, Scalars);

// Normalised rows, and the gradient by the Jacobian: d y_i / d x_j = (delta_ij - y_i y_j) / |x|, or delta_ij / 1e-12
// where x is shorter than that, for y as Scalar holds it.
template <class Scalar, int columns>
void check_normalization(index rows) {
  SCOPED_TRACE(fmt::format("{} x {}", rows, columns));
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, rows, columns), dy = normal<Scalar>(random, rows, columns);
  Matrix y(rows, columns), inverse_norms(rows, 1), dx(rows, columns);
  for (index r = 0; r < rows; ++r) {
    double squares = 0;
    for (index c = 0; c < columns; ++c) squares += x(r, c) * x(r, c);
    inverse_norms(r, 0) = 1 / std::max(std::sqrt(squares), 1e-12);
    for (index c = 0; c < columns; ++c) y(r, c) = x(r, c) * inverse_norms(r, 0);
  }
  const Matrix kept = stored<Scalar>(y);
  for (index r = 0; r < rows; ++r)
    for (index j = 0; j < columns; ++j)
      for (index i = 0; i < columns; ++i)
        dx(r, j) += dy(r, i) * ((i == j ? 1 : 0) - kept(r, i) * kept(r, j)) * inverse_norms(r, 0);
  const Values<Scalar> x_values(x), saved_y(kept), dy_values(dy);
  const Sums<Scalar> saved_norms(inverse_norms);
  Values<Scalar> y_values(rows, columns), dx_values(rows, columns), in_place(dy);
  Sums<Scalar> norm_values(rows, 1);
  run_operation<Scalar>(
      [&](auto& backend) {
        normalize_rows(backend, input<columns>(x_values), output<columns>(y_values), output<1>(norm_values));
        normalize_rows_backward(backend, input<columns>(saved_y), input<1>(saved_norms), input<columns>(dy_values),
                                output<columns>(dx_values));
        normalize_rows_backward(backend, input<columns>(saved_y), input<1>(saved_norms), input<columns>(in_place),
                                output<columns>(in_place));
      },
      y_values, norm_values, dx_values, in_place);
  expect_close("y", y_values, y);
  expect_close("inverse_norms", norm_values, inverse_norms);
  expect_close("dx", dx_values, dx);
  expect_close("dx in place of dy", in_place, dx);
}

TYPED_TEST(Contrastive, RowsAreNormalized) {
  check_normalization<TypeParam, 1>(3);
  check_normalization<TypeParam, 7>(1);
  check_normalization<TypeParam, 130>(200);
}

TYPED_TEST(Contrastive, ARowOfZerosStaysZero) {
  constexpr int columns = 7;
  const Values<TypeParam> x(Matrix(2, columns));
  Values<TypeParam> y(2, columns);
  Sums<TypeParam> inverse_norms(2, 1);
  run_operation<TypeParam>(
      [&](auto& backend) { normalize_rows(backend, input<columns>(x), output<columns>(y), output<1>(inverse_norms)); },
      y, inverse_norms);
  expect_close("y", y, Matrix(2, columns), 0);
  expect_close("inverse_norms", inverse_norms, Matrix(2, 1, 1e12));
}

// The loss and, if wanted, d_q; the loss is added to 0.5 and must not depend on the number of threads either.
template <int columns, class Scalar>
double run_loss(const Matrix& q, const Matrix& k, double temperature, index first_label, index total,
                Values<Scalar>& d_q, InfoNce term = moco_term) {
  const Values<Scalar> q_values(q), k_values(k);
  std::vector<double> losses;
  run_operation<Scalar>(
      [&](auto& backend) {
        double loss = 0.5;
        info_nce(backend, input<columns>(q_values), input<columns>(k_values), term, &temperature, first_label, total,
                 &loss, output<columns>(d_q));
        if (backend.planning())
          EXPECT_EQ(loss, 0.5);
        else
          losses.push_back(loss - 0.5);
      },
      d_q);
  for (const double loss : losses) EXPECT_EQ(loss, losses[0]);
  return losses[0];
}

template <class Scalar, int columns>
void check_loss(index queries, index keys, index first_label, InfoNce term = moco_term) {
  constexpr double temperature = 0.2;
  SCOPED_TRACE(fmt::format("{} queries, {} keys from {}, {} wide", queries, keys, first_label, columns));
  Random random(1, Purpose::test, 0, 0);
  const Matrix q = unit_rows<Scalar>(random, queries, columns), k = unit_rows<Scalar>(random, keys, columns);
  const NaiveLoss naive(q, k, temperature, first_label, keys, term);
  Values<Scalar> d_q(queries, columns), unwanted(0, columns);
  EXPECT_NEAR(run_loss<columns>(q, k, temperature, first_label, keys, d_q, term), naive.loss,
              rounding<Accumulator<Scalar>> * std::max(1.0, naive.loss));
  expect_close("d_q", d_q, naive.d_q);
  EXPECT_NEAR(run_loss<columns>(q, k, temperature, first_label, keys, unwanted, term), naive.loss,
              rounding<Accumulator<Scalar>> * std::max(1.0, naive.loss));
}

TYPED_TEST(Contrastive, LossEqualsTheDefinition) {
  check_loss<TypeParam, 1>(1, 1, 0);
  check_loss<TypeParam, 7>(5, 5, 0);
  check_loss<TypeParam, 32>(130, 130, 0);
  check_loss<TypeParam, 7>(70, 211, 140);  // the third rank's
  check_loss<TypeParam, 7>(5, 5, 0, {.weight = 3});
}

TYPED_TEST(Contrastive, LossHasTheKnownValues) {
  constexpr int columns = 7;
  Matrix orthonormal(4, columns);
  for (index r = 0; r < 4; ++r) orthonormal(r, r) = 1;
  Values<TypeParam> d_q(4, columns), d_equal(6, columns);
  EXPECT_NEAR(run_loss<columns>(orthonormal, orthonormal, 0.2, 0, 4, d_q), 0.4 * std::log(1 + 3 * std::exp(-5)),
              rounding<Accumulator<TypeParam>>);
  const Matrix equal(6, columns, 0.5);
  EXPECT_NEAR(run_loss<columns>(equal, equal, 0.2, 0, 6, d_equal), 0.4 * std::log(6), rounding<Accumulator<TypeParam>>);
  // Sums of shares of up to 0.3, which bf16 rounds before they meet the keys.
  expect_close("d_q of equal rows", d_equal, Matrix(6, columns),
               (std::is_same_v<TypeParam, bf16> ? 10 : 1) * rounding<TypeParam>);
}

// Rows of the standard basis, so that logits of +-1e4 are exact in every precision.
TYPED_TEST(Contrastive, ExtremeLogitsDoNotOverflow) {
  constexpr int columns = 7;
  constexpr double temperature = 1.0 / 8192;
  Matrix q(5, columns), k(5, columns);
  for (index r = 0; r < 5; ++r) {
    q(r, r) = 1;
    k(r, (r + 1) / 2) = r % 2 == 0 ? 1 : -1;
  }
  const NaiveLoss naive(q, k, temperature, 0, 5);
  Values<TypeParam> d_q(5, columns);
  EXPECT_NEAR(run_loss<columns>(q, k, temperature, 0, 5, d_q), naive.loss, rounding<Accumulator<TypeParam>>);
  expect_close("d_q", d_q, naive.d_q);
}

}  // namespace
}  // namespace tessera::test
