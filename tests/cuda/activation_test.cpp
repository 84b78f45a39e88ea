#include "tessera/cuda/activation.hpp"

#include "cuda/operation.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceActivation : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceActivation, DeviceScalars);

template <class Activation, class Scalar, int columns>
void check(index rows) {
  Random random(1, Purpose::test, 7, columns);
  const Matrix x = stored<Scalar>(normal(random, rows, columns, 0, 2)),
               dy = stored<Scalar>(normal(random, rows, columns));
  Matrix y(rows, columns), dx(rows, columns);
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const auto [value, slope] = Activation::value_and_slope(x.values[i]);
    y.values[i] = value;
    dx.values[i] = slope * dy.values[i];
  }
  const DeviceValues<Scalar> in(x), gradient(dy), out(rows, columns), d_in(rows, columns);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        activation_forward<Activation>(backend, in.template input<columns>(), out.template output<columns>());
        activation_backward<Activation>(backend, in.template input<columns>(), gradient.template input<columns>(),
                                        d_in.template output<columns>());
      },
      out, d_in);
  expect_close("y", out, y);
  expect_close("dx", d_in, dx);
}

TYPED_TEST(DeviceActivation, EqualsItsDefinition) {
  check<nn::Gelu, TypeParam, 64>(19);
  check<nn::Gelu, TypeParam, 3>(5);
  check<nn::GeluTanh, TypeParam, 12>(7);
  check<nn::Relu, TypeParam, 1>(1);
}

// As value the distribution, as slope the density: what GELU is made of.
struct NormalDistribution {
  template <class Value>
  static constexpr Value value(Value x) {
    return math::normal(x).cdf;
  }
  template <class Value>
  static constexpr nn::ValueAndSlope<Value> value_and_slope(Value x) {
    const auto [cdf, pdf] = math::normal(x);
    return {cdf, pdf};
  }
};

class DeviceNormal : public DeviceTest<float> {};

TEST_F(DeviceNormal, IsTheDistributionToAMillionth) {
  Matrix x(26001, 1);
  for (index row = 0; row < x.rows; ++row)
    x(row, 0) = static_cast<double>(static_cast<float>(-13 + 1e-3 * static_cast<double>(row)));
  const DeviceValues<float> in(x), ones(Matrix(x.rows, 1, 1)), cdf(x.rows, 1), pdf(x.rows, 1);
  run_on_device<float>(
      [&](cuda::Backend<float>& backend) {
        activation_forward<NormalDistribution>(backend, in.input<1>(), cdf.output<1>());
        activation_backward<NormalDistribution>(backend, in.input<1>(), ones.input<1>(), pdf.output<1>());
      },
      cdf, pdf);
  const Matrix got_cdf = cdf.values(), got_pdf = pdf.values();
  double worst_cdf = 0, worst_pdf = 0;
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const auto exact = math::normal(x.values[i]);
    worst_cdf = std::max(worst_cdf, std::abs(got_cdf.values[i] - exact.cdf));
    worst_pdf = std::max(worst_pdf, std::abs(got_pdf.values[i] - exact.pdf));
  }
  EXPECT_LT(worst_cdf, 1e-6);
  EXPECT_LT(worst_pdf, 1e-6);
}

TEST_F(DeviceNormal, TheLargestValuesHaveNoNaN) {
  Matrix x(4, 1);
  x.values = {-3e38, -100, 100, 3e38};
  Matrix y(4, 1), slope(4, 1);
  y.values = {0, 0, 100, static_cast<double>(3e38f)};
  slope.values = {0, 0, 1, 1};
  const DeviceValues<float> in(x), ones(Matrix(4, 1, 1)), out(4, 1), d_in(4, 1);
  run_on_device<float>(
      [&](cuda::Backend<float>& backend) {
        activation_forward<nn::Gelu>(backend, in.input<1>(), out.output<1>());
        activation_backward<nn::Gelu>(backend, in.input<1>(), ones.input<1>(), d_in.output<1>());
      },
      out, d_in);
  EXPECT_EQ(out.values().values, y.values);
  EXPECT_EQ(d_in.values().values, slope.values);
}

}  // namespace
}  // namespace tessera::test
