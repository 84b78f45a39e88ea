#include "tessera/cuda/layer_norm.hpp"

#include "cuda/operation.hpp"
#include "support/definition.hpp"

namespace tessera::test {
namespace {

constexpr double epsilon = layer_norm_epsilon;

enum class Aliasing { none, dx_is_dy, dx_is_residual };

template <class Scalar, int columns>
void check_layer_norm(index rows, bool with_residual, Aliasing aliasing = Aliasing::none) {
  SCOPED_TRACE(fmt::format("{} x {}, {} residual", rows, columns, with_residual ? "with" : "without"));
  Random random(1, Purpose::test, 0, 0);
  Matrix x = stored<Scalar>(normal(random, rows, columns, 0.5, 2));
  const Matrix gain = normal(random, 1, columns, 1, 0.3), bias = normal(random, 1, columns);
  Matrix dy = normal(random, rows, columns, 0.2);
  for (index c = 0; c < columns; ++c) {  // a row of no variance, whose gradient is divided by sqrt(epsilon)
    x(0, c) = 0.75;
    dy(0, c) /= 1024;
  }
  dy = stored<Scalar>(dy);
  const Matrix residual = with_residual ? stored<Scalar>(normal(random, rows, columns)) : Matrix();
  const Matrix statistics = naive_statistics(x), saved = stored<float>(statistics);
  Matrix y(rows, columns), normalized(rows, columns), d_gain(1, columns), d_bias(1, columns);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) normalized(r, c) = (x(r, c) - statistics(r, 0)) * statistics(r, 1);
  Matrix dx = naive_input_gradient(normalized, statistics, gain, dy);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) {
      y(r, c) = normalized(r, c) * gain(0, c) + bias(0, c);
      d_gain(0, c) += dy(r, c) * normalized(r, c);
      d_bias(0, c) += dy(r, c);
      if (with_residual) dx(r, c) += residual(r, c);
    }

  const DeviceValues<float> gain_values(gain), bias_values(bias), saved_values(saved), statistics_values(rows, 2);
  const DeviceValues<Scalar> x_values(x), y_values(rows, columns);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        layer_norm_forward(backend, x_values.template input<columns>(), gain_values.data(), bias_values.data(), epsilon,
                           statistics_values.output<2>(), y_values.template output<columns>());
      },
      statistics_values, y_values);
  expect_close("y", y_values, y);
  expect_close("statistics", statistics_values, statistics);

  // The operand that dx is, if any, is restored between the runs.
  const DeviceValues<float> d_gain_values(1, columns), d_bias_values(1, columns);
  const DeviceValues<Scalar> dy_values(dy), residual_values(residual), apart(rows, columns);
  const DeviceValues<Scalar>& dx_values = aliasing == Aliasing::dx_is_dy         ? dy_values
                                          : aliasing == Aliasing::dx_is_residual ? residual_values
                                                                                 : apart;
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        layer_norm_backward(backend, x_values.template input<columns>(), gain_values.data(), saved_values.input<2>(),
                            dy_values.template input<columns>(), residual_values.template input<columns>(),
                            dx_values.template output<columns>(), d_gain_values.data(), d_bias_values.data());
      },
      dx_values, d_gain_values, d_bias_values);
  expect_close("dx", dx_values, dx);
  expect_close("d_gain", d_gain_values, d_gain);
  expect_close("d_bias", d_bias_values, d_bias);
}

template <class Scalar>
class DeviceLayerNorm : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceLayerNorm, DeviceScalars);

TYPED_TEST(DeviceLayerNorm, EqualsTheDefinition) {
  check_layer_norm<TypeParam, 1>(3, false);
  check_layer_norm<TypeParam, 7>(1, true);
  check_layer_norm<TypeParam, 48>(300, false);
  check_layer_norm<TypeParam, 131>(37, true);
  check_layer_norm<TypeParam, 768>(19, true);
}

TYPED_TEST(DeviceLayerNorm, SharesWideRowsBetweenWarps) {
  check_layer_norm<TypeParam, 1280>(9, true);
  check_layer_norm<TypeParam, 1601>(5, false);  // three warps in bf16, five in float, and no vectors
}

TYPED_TEST(DeviceLayerNorm, SumsManyRowsInPieces) {
  check_layer_norm<TypeParam, 8>(17001, true);
}

TYPED_TEST(DeviceLayerNorm, OverwritesWhatItMay) {
  check_layer_norm<TypeParam, 48>(130, true, Aliasing::dx_is_dy);
  check_layer_norm<TypeParam, 48>(130, false, Aliasing::dx_is_dy);
  check_layer_norm<TypeParam, 131>(40, true, Aliasing::dx_is_residual);
  check_layer_norm<TypeParam, 1280>(20, true, Aliasing::dx_is_residual);
}

}  // namespace
}  // namespace tessera::test
