#include "tessera/cpu/layer_norm.hpp"

#include "support/definition.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

constexpr double epsilon = layer_norm_epsilon;

Matrix naive_normalized(const Matrix& x, const Matrix& statistics) {
  Matrix normalized(x.rows, x.columns);
  for (index r = 0; r < x.rows; ++r)
    for (index c = 0; c < x.columns; ++c) normalized(r, c) = (x(r, c) - statistics(r, 0)) * statistics(r, 1);
  return normalized;
}

enum class Aliasing { none, dx_is_dy, dx_is_residual };

template <class Scalar, int columns>
void check_layer_norm(index rows, bool with_residual, Aliasing aliasing = Aliasing::none) {
  SCOPED_TRACE(fmt::format("{} x {}, {} residual", rows, columns, with_residual ? "with" : "without"));
  Random random(1, Purpose::test, 0, 0);
  Matrix x = normal<Scalar>(random, rows, columns, 0.5, 2);
  const Matrix gain = normal(random, 1, columns, 1, 0.3), bias = normal(random, 1, columns);
  Matrix dy = normal<Scalar>(random, rows, columns, 0.2);
  for (index c = 0; c < columns; ++c) {  // a row of no variance, whose gradient is divided by sqrt(epsilon)
    x(0, c) = 0.75;
    dy(0, c) /= 1024;
  }
  const Matrix residual = with_residual ? normal<Scalar>(random, rows, columns) : Matrix();
  const Matrix statistics = naive_statistics(x), normalized = naive_normalized(x, statistics);
  Matrix y(rows, columns), d_gain(1, columns), d_bias(1, columns);
  Matrix dx = naive_input_gradient(normalized, statistics, gain, dy);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) {
      y(r, c) = normalized(r, c) * gain(0, c) + bias(0, c);
      d_gain(0, c) += dy(r, c) * normalized(r, c);
      d_bias(0, c) += dy(r, c);
      if (with_residual) dx(r, c) += residual(r, c);
    }

  const Values<Scalar> x_values(x), dy_values(dy), residual_values(residual);
  const Sums<Scalar> gain_values(gain), bias_values(bias);
  Sums<Scalar> statistics_values(rows, 2);
  Values<Scalar> y_values(rows, columns);
  run_operation<Scalar>(
      [&](auto& backend) {
        layer_norm_forward(backend, input<columns>(x_values), gain_values.data(), bias_values.data(), epsilon,
                           output<2>(statistics_values), output<columns>(y_values));
      },
      statistics_values, y_values);
  expect_close("y", y_values, y);
  expect_close("statistics", statistics_values, statistics);

  const Sums<Scalar> saved(statistics);
  Values<Scalar> dx_values(rows, columns);
  Sums<Scalar> d_gain_values(1, columns), d_bias_values(1, columns);
  if (aliasing == Aliasing::dx_is_dy) dx_values = dy_values;
  if (aliasing == Aliasing::dx_is_residual) dx_values = residual_values;
  run_operation<Scalar>(
      [&](auto& backend) {
        layer_norm_backward(backend, input<columns>(x_values), gain_values.data(), input<2>(saved),
                            input<columns>(aliasing == Aliasing::dx_is_dy ? dx_values : dy_values),
                            input<columns>(aliasing == Aliasing::dx_is_residual ? dx_values : residual_values),
                            output<columns>(dx_values), d_gain_values.data(), d_bias_values.data());
      },
      dx_values, d_gain_values, d_bias_values);
  expect_close("dx", dx_values, dx);
  expect_close("d_gain", d_gain_values, d_gain);
  expect_close("d_bias", d_bias_values, d_bias);
}

template <class Scalar>
class LayerNorm : public testing::Test {};
TYPED_TEST_SUITE(LayerNorm, Scalars);

TYPED_TEST(LayerNorm, EqualsTheDefinition) {
  check_layer_norm<TypeParam, 1>(3, false);
  check_layer_norm<TypeParam, 7>(1, true);
  check_layer_norm<TypeParam, 48>(300, false);
  check_layer_norm<TypeParam, 131>(257, true);
}

TYPED_TEST(LayerNorm, OverwritesWhatItMay) {
  check_layer_norm<TypeParam, 48>(130, true, Aliasing::dx_is_dy);
  check_layer_norm<TypeParam, 48>(130, false, Aliasing::dx_is_dy);
  check_layer_norm<TypeParam, 131>(130, true, Aliasing::dx_is_residual);
}

}  // namespace
}  // namespace tessera::test
