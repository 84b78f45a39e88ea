#include "tessera/cuda/contrastive.hpp"

#include <algorithm>

#include "cuda/operation.hpp"
#include "support/definition.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceContrastive : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceContrastive, DeviceScalars);

// Normalised rows, and the gradient by the Jacobian: d y_i / d x_j = (delta_ij - y_i y_j) / |x|.
template <class Scalar, int columns>
void check_normalization(index rows) {
  SCOPED_TRACE(fmt::format("{} x {}", rows, columns));
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = stored<Scalar>(normal(random, rows, columns)), dy = stored<Scalar>(normal(random, rows, columns));
  Matrix y(rows, columns), inverse_norms(rows, 1), dx(rows, columns);
  for (index r = 0; r < rows; ++r) {
    double squares = 0;
    for (index c = 0; c < columns; ++c) squares += x(r, c) * x(r, c);
    inverse_norms(r, 0) = 1 / std::sqrt(squares);
    for (index c = 0; c < columns; ++c) y(r, c) = x(r, c) * inverse_norms(r, 0);
  }
  const Matrix kept = stored<Scalar>(y);
  for (index r = 0; r < rows; ++r) {
    double along = 0;
    for (index c = 0; c < columns; ++c) along += kept(r, c) * dy(r, c);
    for (index c = 0; c < columns; ++c) dx(r, c) = (dy(r, c) - kept(r, c) * along) * inverse_norms(r, 0);
  }
  const DeviceValues<Scalar> x_values(x), saved_y(kept), y_values(rows, columns), dy_values(dy),
      dx_values(rows, columns), in_place(dy);
  const DeviceValues<float> saved_norms(inverse_norms), norm_values(rows, 1);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        normalize_rows(backend, x_values.template input<columns>(), y_values.template output<columns>(),
                       norm_values.output<1>());
        normalize_rows_backward(backend, saved_y.template input<columns>(), saved_norms.input<1>(),
                                dy_values.template input<columns>(), dx_values.template output<columns>());
        normalize_rows_backward(backend, saved_y.template input<columns>(), saved_norms.input<1>(),
                                in_place.template input<columns>(), in_place.template output<columns>());
      },
      y_values, norm_values, dx_values, in_place);
  expect_close("y", y_values, y);
  expect_close("inverse_norms", norm_values, inverse_norms);
  expect_close("dx", dx_values, dx);
  expect_close("dx in place of dy", in_place, dx);
}

TYPED_TEST(DeviceContrastive, RowsAreNormalized) {
  check_normalization<TypeParam, 1>(3);
  check_normalization<TypeParam, 7>(1);
  check_normalization<TypeParam, 130>(200);
  check_normalization<TypeParam, 264>(9);
}

TYPED_TEST(DeviceContrastive, ARowOfZerosStaysZero) {
  constexpr int columns = 7;
  const DeviceValues<TypeParam> x(Matrix(2, columns)), y(2, columns);
  const DeviceValues<float> inverse_norms(2, 1);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        normalize_rows(backend, x.template input<columns>(), y.template output<columns>(), inverse_norms.output<1>());
      },
      y, inverse_norms);
  expect_close("y", y, Matrix(2, columns), 0);
  expect_close("inverse_norms", inverse_norms, Matrix(2, 1, 1e12), 1e-7);
}

// The loss, which is added to 0.5, and d_q, unless it has no rows.
template <int columns, class Scalar>
double run_loss(const Matrix& q, const Matrix& k, double temperature, index first_label, index total,
                const DeviceValues<Scalar>& d_q, InfoNce term = moco_term) {
  const DeviceValues<Scalar> q_values(q), k_values(k);
  const DeviceValues<double> temperature_value(Matrix(1, 1, temperature)), loss(Matrix(1, 1, 0.5));
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        info_nce(backend, q_values.template input<columns>(), k_values.template input<columns>(), term,
                 static_cast<const double*>(temperature_value.data()), first_label, total, loss.data(),
                 d_q.template output<columns>());
      },
      d_q, loss);
  return loss.values()(0, 0) - 0.5;
}

template <class Scalar>
void expect_loss(const NaiveLoss& naive, double loss, const DeviceValues<Scalar>& d_q) {
  EXPECT_NEAR(loss, naive.loss, 2e-6 * std::max(1.0, naive.loss));
  expect_close("d_q", d_q, naive.d_q);
}

template <class Scalar, int columns>
void check_loss(index queries, index keys, index first_label, index total, double temperature,
                InfoNce term = moco_term) {
  SCOPED_TRACE(fmt::format("{} queries, {} keys from {}, {} wide", queries, keys, first_label, columns));
  Random random(1, Purpose::test, 0, 0);
  const Matrix q = unit_rows<Scalar>(random, queries, columns), k = unit_rows<Scalar>(random, keys, columns);
  const NaiveLoss naive(q, k, temperature, first_label, total, term);
  const DeviceValues<Scalar> d_q(queries, columns), unwanted(0, columns);
  expect_loss(naive, run_loss<columns>(q, k, temperature, first_label, total, d_q, term), d_q);
  EXPECT_NEAR(run_loss<columns>(q, k, temperature, first_label, total, unwanted, term), naive.loss,
              2e-6 * std::max(1.0, naive.loss));
}

TYPED_TEST(DeviceContrastive, LossEqualsTheDefinition) {
  check_loss<TypeParam, 1>(1, 1, 0, 1, 0.2);
  check_loss<TypeParam, 7>(5, 5, 0, 5, 0.2);
  check_loss<TypeParam, 32>(132, 132, 0, 132, 0.05);
  check_loss<TypeParam, 7>(70, 211, 140, 210, 0.2);     // the third rank's
  check_loss<TypeParam, 8>(30, 1300, 1270, 1300, 1.0);  // more keys than threads
  check_loss<TypeParam, 7>(5, 5, 0, 5, 0.2, {.weight = 3});
}

// More queries than are compared at a time.
TYPED_TEST(DeviceContrastive, LossIsOfAllSlices) {
  check_loss<TypeParam, 2>(1027, 1031, 2, 1031, 0.2);
}

TEST(DeviceContrastiveSlices, KeepLogitsInTheCache) {
  EXPECT_EQ(cuda::detail::queries_at_once(4096, 4096), 1024);
  EXPECT_EQ(cuda::detail::queries_at_once(1025, 2048), 513);
  EXPECT_EQ(cuda::detail::queries_at_once(4096, 32768), 128);
  EXPECT_EQ(cuda::detail::queries_at_once(4096, 1 << 20), 64);
  EXPECT_EQ(cuda::detail::queries_at_once(3, 5), 3);
}

TYPED_TEST(DeviceContrastive, LossHasTheKnownValues) {
  constexpr int columns = 7;
  Matrix orthonormal(4, columns);
  for (index r = 0; r < 4; ++r) orthonormal(r, r) = 1;
  const DeviceValues<TypeParam> d_q(4, columns), d_equal(6, columns);
  EXPECT_NEAR(run_loss<columns>(orthonormal, orthonormal, 0.2, 0, 4, d_q), 0.4 * std::log(1 + 3 * std::exp(-5)), 1e-7);
  const Matrix equal(6, columns, 0.5);
  EXPECT_NEAR(run_loss<columns>(equal, equal, 0.2, 0, 6, d_equal), 0.4 * std::log(6), 1e-6);
  expect_close("d_q of equal rows", d_equal, Matrix(6, columns), 10 * device_rounding<TypeParam>);
}

// Rows of the standard basis, so that logits of +-1e4 are exact in every precision.
TYPED_TEST(DeviceContrastive, ExtremeLogitsDoNotOverflow) {
  constexpr int columns = 7;
  constexpr double temperature = 1.0 / 8192;
  Matrix q(5, columns), k(5, columns);
  for (index r = 0; r < 5; ++r) {
    q(r, r) = 1;
    k(r, (r + 1) / 2) = r % 2 == 0 ? 1 : -1;
  }
  const NaiveLoss naive(q, k, temperature, 0, 5);
  const DeviceValues<TypeParam> d_q(5, columns);
  expect_loss(naive, run_loss<columns>(q, k, temperature, 0, 5, d_q), d_q);
}

TYPED_TEST(DeviceContrastive, ShowsWhatIsNotANumber) {
  constexpr int columns = 4;
  Random random(1, Purpose::test, 0, 0);
  const Matrix k = unit_rows<TypeParam>(random, 40, columns);
  Matrix q = k;
  q(7, 2) = std::numeric_limits<double>::quiet_NaN();
  const DeviceValues<TypeParam> d_q(40, columns);
  EXPECT_TRUE(std::isnan(run_loss<columns>(q, k, 0.2, 0, 40, d_q)));
  EXPECT_TRUE(std::isnan(d_q.values()(7, 0)));
  EXPECT_FALSE(std::isnan(d_q.values()(6, 0)));
}

}  // namespace
}  // namespace tessera::test
