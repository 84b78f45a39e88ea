#include "tessera/cuda/nt_xent.hpp"

#include <algorithm>

#include "cuda/operation.hpp"
#include "support/definition.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceNtXent : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceNtXent, DeviceScalars);

// The loss of the anchors from `first` on, which is added to 0.5.
template <int columns, class Scalar>
double run_forward(const DeviceValues<Scalar>& z, double temperature, index first,
                   const DeviceValues<float>& log_sums) {
  const DeviceValues<double> temperature_value(Matrix(1, 1, temperature)), loss(Matrix(1, 1, 0.5));
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        nt_xent_forward(backend, z.template input<columns>(), static_cast<const double*>(temperature_value.data()),
                        first, log_sums.output<1>(), loss.data());
      },
      log_sums, loss);
  return loss.values()(0, 0) - 0.5;
}

template <int columns, class Scalar>
void run_backward(const DeviceValues<Scalar>& z, double temperature, index first, const DeviceValues<float>& log_sums,
                  const DeviceValues<Scalar>& d_z) {
  const DeviceValues<double> temperature_value(Matrix(1, 1, temperature));
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        nt_xent_backward(backend, z.template input<columns>(), static_cast<const double*>(temperature_value.data()),
                         first, log_sums.input<1>(), d_z.template output<columns>());
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
void check(index images, const std::vector<index>& displacements, double temperature) {
  SCOPED_TRACE(fmt::format("{} images, {} wide, {} parts", images, columns, displacements.size() - 1));
  Random random(1, Purpose::test, 0, 0);
  const Matrix z = unit_rows<Scalar>(random, 2 * images, columns);
  const NaiveNtXent naive(z, temperature);
  const DeviceValues<Scalar> z_values(z);
  const DeviceValues<float> all_log_sums(naive.log_sums);
  for (std::size_t i = 0; i + 1 < displacements.size(); ++i) {
    const index first = displacements[i], count = displacements[i + 1] - first;
    const DeviceValues<float> log_sums(count, 1);
    const DeviceValues<Scalar> d_z(count, columns);
    EXPECT_NEAR(run_forward<columns>(z_values, temperature, first, log_sums), naive.loss(first, count), 1e-5);
    expect_close("log_sums", log_sums, part(naive.log_sums, first, count));
    run_backward<columns>(z_values, temperature, first, all_log_sums, d_z);
    expect_close("d_z", d_z, part(naive.d_z, first, count));
  }
}

TYPED_TEST(DeviceNtXent, EqualsTheDefinition) {
  check<TypeParam, 1>(1, {0, 2}, 0.2);
  check<TypeParam, 7>(5, {0, 10}, 0.2);
  check<TypeParam, 32>(66, {0, 66, 132}, 0.05);
  check<TypeParam, 7>(35, {0, 20, 35, 55, 70}, 0.2);  // two ranks' views
  check<TypeParam, 8>(650, {1270, 1300}, 1.0);        // more candidates than threads
}

// More anchors than are compared at a time.
TYPED_TEST(DeviceNtXent, IsOfAllSlices) {
  check<TypeParam, 2>(515, {0, 1030}, 0.2);
}

TYPED_TEST(DeviceNtXent, HasTheKnownValues) {
  constexpr int columns = 7;
  Matrix alone(2, columns), orthonormal(8, columns);
  alone(0, 0) = alone(1, 1) = 1;
  for (index r = 0; r < 8; ++r) orthonormal(r, r % 4) = 1;
  const auto loss = [](const Matrix& z) {
    const DeviceValues<float> log_sums(z.rows, 1);
    return run_forward<columns>(DeviceValues<TypeParam>(z), 0.2, 0, log_sums);
  };
  EXPECT_EQ(loss(alone), 0);
  EXPECT_NEAR(loss(Matrix(6, columns, 0.25)), std::log(5), 1e-6);
  EXPECT_NEAR(loss(orthonormal), std::log(1 + 6 * std::exp(-5)), 1e-6);
}

// Rows of the standard basis, so that logits of +-8192 are exact in every precision.
TYPED_TEST(DeviceNtXent, ExtremeLogitsDoNotOverflow) {
  constexpr int columns = 7;
  constexpr double temperature = 1.0 / 8192;
  Matrix z(6, columns);
  for (index r = 0; r < 6; ++r) z(r, r / 2) = r % 2 == 0 ? 1 : -1;
  const NaiveNtXent naive(z, temperature);
  const DeviceValues<TypeParam> z_values(z), d_z(6, columns);
  const DeviceValues<float> log_sums(6, 1);
  EXPECT_NEAR(run_forward<columns>(z_values, temperature, 0, log_sums), naive.loss(0, 6), 1e-6 * naive.loss(0, 6));
  expect_close("log_sums", log_sums, naive.log_sums);
  run_backward<columns>(z_values, temperature, 0, DeviceValues<float>(naive.log_sums), d_z);
  expect_close("d_z", d_z, naive.d_z, 8e-3);
}

TYPED_TEST(DeviceNtXent, ShowsWhatIsNotANumber) {
  constexpr int columns = 4;
  Random random(1, Purpose::test, 0, 0);
  Matrix z = unit_rows<TypeParam>(random, 40, columns);
  z(7, 2) = std::numeric_limits<double>::quiet_NaN();
  const DeviceValues<float> log_sums(40, 1);
  EXPECT_TRUE(std::isnan(run_forward<columns>(DeviceValues<TypeParam>(z), 0.2, 0, log_sums)));
}

}  // namespace
}  // namespace tessera::test
