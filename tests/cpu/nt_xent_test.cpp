#include "tessera/cpu/nt_xent.hpp"

#include <algorithm>

#include "support/definition.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class NtXent : public testing::Test {};
TYPED_TEST_SUITE(NtXent, Scalars);

// The loss of the anchors from `first` on, which is added to 0.5 and must not depend on the number of threads.
template <int columns, class Scalar>
double run_forward(const Values<Scalar>& z, double temperature, index first, Sums<Scalar>& log_sums) {
  std::vector<double> losses;
  run_operation<Scalar>(
      [&](auto& backend) {
        double loss = 0.5;
        nt_xent_forward(backend, input<columns>(z), &temperature, first, output<1>(log_sums), &loss);
        if (backend.planning())
          EXPECT_EQ(loss, 0.5);
        else
          losses.push_back(loss - 0.5);
      },
      log_sums);
  for (const double loss : losses) EXPECT_EQ(loss, losses[0]);
  return losses[0];
}

template <int columns, class Scalar>
void run_backward(const Values<Scalar>& z, double temperature, index first, const Sums<Scalar>& log_sums,
                  Values<Scalar>& d_z) {
  run_operation<Scalar>(
      [&](auto& backend) {
        nt_xent_backward(backend, input<columns>(z), &temperature, first, input<1>(log_sums), output<columns>(d_z));
      },
      d_z);
}

Matrix part(const Matrix& x, index first, index count) {
  Matrix rows(count, x.columns);
  std::copy_n(x.values.begin() + first * x.columns, count * x.columns, rows.values.begin());
  return rows;
}

// Several ranks' anchors, rank by rank; `displacements` are where they begin, and the end.
template <class Scalar, int columns>
void check(index images, const std::vector<index>& displacements, double temperature = 0.2) {
  SCOPED_TRACE(fmt::format("{} images, {} wide, {} parts", images, columns, displacements.size() - 1));
  Random random(1, Purpose::test, 0, 0);
  const Matrix z = unit_rows<Scalar>(random, 2 * images, columns);
  const NaiveNtXent naive(z, temperature);
  const Values<Scalar> z_values(z);
  const Sums<Scalar> all_log_sums(naive.log_sums);
  for (std::size_t i = 0; i + 1 < displacements.size(); ++i) {
    const index first = displacements[i], count = displacements[i + 1] - first;
    Sums<Scalar> log_sums(count, 1);
    Values<Scalar> d_z(count, columns);
    EXPECT_NEAR(run_forward<columns>(z_values, temperature, first, log_sums), naive.loss(first, count),
                rounding<Accumulator<Scalar>> * 5);
    expect_close("log_sums", log_sums, part(naive.log_sums, first, count));
    run_backward<columns>(z_values, temperature, first, all_log_sums, d_z);
    expect_close("d_z", d_z, part(naive.d_z, first, count));
  }
}

TYPED_TEST(NtXent, EqualsTheDefinition) {
  check<TypeParam, 1>(1, {0, 2});
  check<TypeParam, 7>(5, {0, 10});
  check<TypeParam, 32>(130, {0, 130, 260}, 0.05);
  check<TypeParam, 7>(105, {0, 35, 70, 105, 140, 175, 210});  // three ranks' views
  check<TypeParam, 8>(64, {0, 3, 100, 128}, 1.0);             // across both views
}

// An image alone has no negative; equal rows are equally probable; orthonormal images are told apart by 1 /
// temperature.
TYPED_TEST(NtXent, HasTheKnownValues) {
  constexpr int columns = 7;
  Matrix alone(2, columns), orthonormal(8, columns);
  alone(0, 0) = alone(1, 1) = 1;
  for (index r = 0; r < 8; ++r) orthonormal(r, r % 4) = 1;
  const auto loss = [](const Matrix& z) {
    Sums<TypeParam> log_sums(z.rows, 1);
    return run_forward<columns>(Values<TypeParam>(z), 0.2, 0, log_sums);
  };
  EXPECT_EQ(loss(alone), 0);
  EXPECT_NEAR(loss(Matrix(6, columns, 0.3)), std::log(5), rounding<Accumulator<TypeParam>>);
  EXPECT_NEAR(loss(orthonormal), std::log(1 + 6 * std::exp(-5)), rounding<Accumulator<TypeParam>>);
}

// Rows of the standard basis, so that logits of +-8192 are exact in every precision.
TYPED_TEST(NtXent, ExtremeLogitsDoNotOverflow) {
  constexpr int columns = 7;
  constexpr double temperature = 1.0 / 8192;
  Matrix z(6, columns);
  for (index r = 0; r < 6; ++r) z(r, r / 2) = r % 2 == 0 ? 1 : -1;
  const NaiveNtXent naive(z, temperature);
  const Values<TypeParam> z_values(z);
  Sums<TypeParam> log_sums(6, 1);
  Values<TypeParam> d_z(6, columns);
  EXPECT_NEAR(run_forward<columns>(z_values, temperature, 0, log_sums), naive.loss(0, 6),
              rounding<Accumulator<TypeParam>> * naive.loss(0, 6));
  expect_close("log_sums", log_sums, naive.log_sums);
  run_backward<columns>(z_values, temperature, 0, Sums<TypeParam>(naive.log_sums), d_z);
  expect_close("d_z", d_z, naive.d_z, std::is_same_v<TypeParam, float> ? 1e-3 : rounding<TypeParam>);
}

TYPED_TEST(NtXent, ShowsWhatIsNotANumber) {
  constexpr int columns = 4;
  Random random(1, Purpose::test, 0, 0);
  Matrix z = unit_rows<TypeParam>(random, 40, columns);
  z(7, 2) = std::numeric_limits<double>::quiet_NaN();
  Sums<TypeParam> log_sums(40, 1);
  cpu::Backend<TypeParam> backend(1);
  const Values<TypeParam> z_values(z);
  const double temperature = 0.2;
  double loss = 0;
  const auto forward = [&] {
    nt_xent_forward(backend, input<columns>(z_values), &temperature, 0, output<1>(log_sums), &loss);
  };
  forward();
  backend.arena().commit();
  forward();
  EXPECT_TRUE(std::isnan(loss));
}

// Of every value of z, by five-point differences of the loss.
TEST(NtXentGradient, EqualsFiniteDifferences) {
  constexpr int columns = 5;
  constexpr index rows = 12;
  constexpr double temperature = 0.3, h = 1e-3;
  Random random(1, Purpose::test, 0, 0);
  Matrix z = unit_rows<double>(random, rows, columns);
  cpu::Backend<double> backend(2);
  std::vector<double> log_sums(rows), d_z(rows * columns);
  const auto loss = [&] {
    double sum = 0;
    nt_xent_forward(backend, Rows<const double, columns>{z.values.data(), rows}, &temperature, 0,
                    Rows<double, 1>{log_sums.data(), rows}, &sum);
    return sum;
  };
  const auto gradient = [&] {
    nt_xent_backward(backend, Rows<const double, columns>{z.values.data(), rows}, &temperature, 0,
                     Rows<const double, 1>{log_sums.data(), rows}, Rows<double, columns>{d_z.data(), rows});
  };
  loss();
  gradient();
  backend.arena().commit();
  loss();
  gradient();
  for (std::size_t i = 0; i < z.values.size(); ++i) {
    const double at = z.values[i];
    const auto shifted = [&](double shift) {
      z.values[i] = at + shift;
      return loss();
    };
    const double expected = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
    z.values[i] = at;
    EXPECT_NEAR(d_z[i], expected, 1e-9) << "value " << i;
  }
}

}  // namespace
}  // namespace tessera::test
