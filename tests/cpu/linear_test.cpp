#include "tessera/cpu/linear.hpp"

#include <gmock/gmock.h>

#include <numbers>

#include "support/operation.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::test {
namespace {

double gelu(double x) {
  return x / 2 * std::erfc(-x / std::numbers::sqrt2);
}
double gelu_slope(double x) {
  return std::erfc(-x / std::numbers::sqrt2) / 2 + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}

// A layer's operands, and a product of each kind by the definition. Products read `weight`, the master values as Scalar
// holds them; `bias` is added as it is.
template <class Scalar>
struct Layer {
  Matrix x, master, weight, bias, dy;

  Layer(index rows, index in, index out) {
    Random random(1, Purpose::test, 0, 0);
    x = normal<Scalar>(random, rows, in);
    master = normal(random, out, in);
    weight = stored<Scalar>(master);
    bias = normal(random, 1, out);
    dy = normal<Scalar>(random, rows, out);
  }

  [[nodiscard]] Matrix forward() const {
    Matrix y(x.rows, weight.rows);
    for (index r = 0; r < y.rows; ++r)
      for (index o = 0; o < y.columns; ++o)
        for (index i = 0; i < x.columns; ++i) y(r, o) += x(r, i) * weight(o, i);
    return y;
  }

  [[nodiscard]] Matrix input_gradient() const {
    Matrix dx(x.rows, x.columns);
    for (index r = 0; r < dx.rows; ++r)
      for (index o = 0; o < dy.columns; ++o)
        for (index i = 0; i < dx.columns; ++i) dx(r, i) += dy(r, o) * weight(o, i);
    return dx;
  }

  [[nodiscard]] Matrix weight_gradient() const {
    Matrix gradient(weight.rows, weight.columns);
    for (index r = 0; r < x.rows; ++r)
      for (index o = 0; o < dy.columns; ++o)
        for (index i = 0; i < x.columns; ++i) gradient(o, i) += dy(r, o) * x(r, i);
    return gradient;
  }
};

template <class Scalar, int in, int out>
void check_forward(index rows, bool with_bias, bool with_residual) {
  SCOPED_TRACE(fmt::format("{} rows, {} to {}, {} bias, {} residual", rows, in, out, with_bias ? "with" : "without",
                           with_residual ? "with" : "without"));
  const Layer<Scalar> layer(rows, in, out);
  Random random(2, Purpose::test, 0, 0);
  const Matrix residual = with_residual ? normal<Scalar>(random, rows, out) : Matrix();
  Matrix y = layer.forward();
  for (index r = 0; r < rows; ++r)
    for (index o = 0; o < out; ++o)
      y(r, o) += (with_bias ? layer.bias(0, o) : 0) + (with_residual ? residual(r, o) : 0);
  const Values<Scalar> x(layer.x), residual_values(residual);
  ParameterValues<Scalar> weight(layer.master), bias(with_bias ? layer.bias : Matrix());
  Values<Scalar> y_values(rows, out);
  run_operation<Scalar>(
      [&](auto& backend) {
        linear_forward(backend, input<in>(x), weight, bias, input<out>(residual_values), output<out>(y_values));
      },
      y_values);
  expect_close("y", y_values, y);
}

template <class Scalar, int in, int out>
void check_gradients(index rows, bool with_bias) {
  SCOPED_TRACE(fmt::format("{} rows, {} to {}", rows, in, out));
  const Layer<Scalar> layer(rows, in, out);
  Matrix d_bias(1, out);
  for (index r = 0; r < rows; ++r)
    for (index o = 0; o < out; ++o) d_bias(0, o) += layer.dy(r, o);
  const Values<Scalar> x(layer.x), dy(layer.dy);
  ParameterValues<Scalar> weight(layer.master);
  Values<Scalar> dx(rows, in);
  Sums<Scalar> d_weight(out, in), d_bias_values(with_bias ? 1 : 0, out);
  run_operation<Scalar>(
      [&](auto& backend) {
        linear_input_gradient(backend, input<out>(dy), weight, output<in>(dx));
        linear_weight_gradient(backend, input<in>(x), input<out>(dy), d_weight.data(), d_bias_values.data());
      },
      dx, d_weight, d_bias_values);
  expect_close("dx", dx, layer.input_gradient());
  expect_close("d_weight", d_weight, layer.weight_gradient());
  if (with_bias) expect_close("d_bias", d_bias_values, d_bias);
}

// y = Gelu(x W^T + b), and the gradient through Gelu(x) W^T.
template <class Scalar, int in, int out>
void check_activation(index rows) {
  SCOPED_TRACE(fmt::format("{} rows, {} to {}", rows, in, out));
  const Layer<Scalar> layer(rows, in, out);
  Matrix before = layer.forward(), y(rows, out), d_x = layer.input_gradient(), activated(rows, in), d_bias(1, in);
  for (index r = 0; r < rows; ++r) {
    for (index o = 0; o < out; ++o) y(r, o) = gelu(before(r, o) += layer.bias(0, o));
    for (index i = 0; i < in; ++i) {
      d_x(r, i) *= gelu_slope(layer.x(r, i));
      activated(r, i) = gelu(layer.x(r, i));
    }
  }
  const Values<Scalar> x(layer.x), dy(layer.dy);
  ParameterValues<Scalar> weight(layer.master), bias(layer.bias);
  Values<Scalar> before_values(rows, out), y_values(rows, out), d_x_values(rows, in), activated_values(rows, in);
  Sums<Scalar> d_bias_values(1, in);
  run_operation<Scalar>(
      [&](auto& backend) {
        linear_activation_forward<nn::Gelu>(backend, input<in>(x), weight, bias, output<out>(before_values),
                                            output<out>(y_values));
        linear_activation_gradient<nn::Gelu>(backend, input<out>(dy), weight, input<in>(x), output<in>(d_x_values),
                                             output<in>(activated_values), d_bias_values.data());
      },
      before_values, y_values, d_x_values, activated_values, d_bias_values);
  expect_close("before", before_values, before);
  expect_close("y", y_values, y);
  expect_close("d_before", d_x_values, d_x);
  expect_close("activated", activated_values, activated);
  for (index r = 0; r < rows; ++r)
    for (index i = 0; i < in; ++i) d_bias(0, i) += d_x_values(r, i);  // the sums of d_before as Scalar holds it
  expect_close("d_bias", d_bias_values, d_bias);
}

template <class Scalar>
class Linear : public testing::Test {};
TYPED_TEST_SUITE(Linear, Scalars);

TYPED_TEST(Linear, ForwardAddsWhatIsThere) {
  check_forward<TypeParam, 1, 1>(1, true, true);
  check_forward<TypeParam, 5, 7>(300, true, false);  // beyond a tile's rows
  check_forward<TypeParam, 33, 17>(3, false, true);
  check_forward<TypeParam, 20, 800>(260, true, true);   // beyond a tile's columns
  check_forward<TypeParam, 1200, 1000>(9, true, true);  // more than is packed at a time
  check_forward<TypeParam, 5, 7>(9, false, false);
}

TYPED_TEST(Linear, GradientsAreTheTransposedProducts) {
  check_gradients<TypeParam, 1, 1>(1, true);
  check_gradients<TypeParam, 5, 7>(3, false);
  check_gradients<TypeParam, 33, 200>(1100, true);  // three slices of rows, three tiles of columns
  check_gradients<TypeParam, 800, 20>(1100, true);  // more rows than are packed at a time
}

TYPED_TEST(Linear, ActivationIsAppliedToEveryTile) {
  check_activation<TypeParam, 1, 1>(1);
  check_activation<TypeParam, 33, 17>(300);
  check_activation<TypeParam, 20, 800>(3);
}

TYPED_TEST(Linear, ABiggerBatchThanPlannedIsRefused) {
  constexpr int in = 40, out = 30;
  const Layer<TypeParam> layer(513, in, out);
  const Values<TypeParam> x(layer.x), dy(layer.dy);
  Sums<TypeParam> d_weight(out, in), d_bias(1, out);
  cpu::Backend<TypeParam> backend(2);
  const auto gradient = [&](index rows) {
    linear_weight_gradient(backend, input<in>(x).part(0, rows), input<out>(dy).part(0, rows), d_weight.data(),
                           d_bias.data());
  };
  gradient(512);
  backend.arena().commit();
  gradient(512);
  EXPECT_THAT([&] { gradient(513); }, testing::ThrowsMessage<Error>(testing::HasSubstr("plan again for this batch")));
}

}  // namespace
}  // namespace tessera::test
