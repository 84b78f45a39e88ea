#include "tessera/cpu/activation.hpp"

#include <numbers>

#include "support/operation.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::test {
namespace {

struct NaiveGelu {
  static double value(double x) { return x * cdf(x); }
  static double slope(double x) {
    return cdf(x) + x * std::exp(-x * x / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  }
  static double cdf(double x) { return (1 + std::erf(x / std::numbers::sqrt2)) / 2; }
};

struct NaiveGeluTanh {
  static double tanh(double x) {
    return std::tanh(std::sqrt(2) * std::numbers::inv_sqrtpi * (x + 0.044715 * x * x * x));
  }
  static double value(double x) { return x / 2 * (1 + tanh(x)); }
  static double slope(double x) {
    const double t = tanh(x);
    return (1 + t) / 2 + x / 2 * (1 - t * t) * std::sqrt(2) * std::numbers::inv_sqrtpi * (1 + 3 * 0.044715 * x * x);
  }
};

struct NaiveRelu {
  static double value(double x) { return x > 0 ? x : 0; }
  static double slope(double x) { return x > 0 ? 1 : 0; }
};

template <class Scalar, class Activation, class Naive, int columns>
void check_activation(index rows) {
  SCOPED_TRACE(fmt::format("{} x {}", rows, columns));
  Random random(1, Purpose::test, 0, 0);
  Matrix x = normal<Scalar>(random, rows, columns, 0, 3), y(rows, columns), dx(rows, columns);
  x(0, 0) = 0;
  x(rows - 1, columns - 1) = -8192;
  const Matrix dy = normal<Scalar>(random, rows, columns);
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) {
      y(r, c) = Naive::value(x(r, c));
      dx(r, c) = dy(r, c) * Naive::slope(x(r, c));
    }
  const Values<Scalar> x_values(x), dy_values(dy);
  Values<Scalar> y_values(rows, columns), dx_values(rows, columns);
  run_operation<Scalar>(
      [&](auto& backend) {
        activation_forward<Activation>(backend, input<columns>(x_values), output<columns>(y_values));
        activation_backward<Activation>(backend, input<columns>(x_values), input<columns>(dy_values),
                                        output<columns>(dx_values));
      },
      y_values, dx_values);
  expect_close("y", y_values, y);
  expect_close("dx", dx_values, dx);
}

template <class Scalar>
class Activation : public testing::Test {};
TYPED_TEST_SUITE(Activation, Scalars);

TYPED_TEST(Activation, GeluIsExact) {
  check_activation<TypeParam, nn::Gelu, NaiveGelu, 1>(9000);
  check_activation<TypeParam, nn::Gelu, NaiveGelu, 5>(1);
  check_activation<TypeParam, nn::Gelu, NaiveGelu, 131>(200);
}

TYPED_TEST(Activation, OthersFollowTheirFormulas) {
  check_activation<TypeParam, nn::GeluTanh, NaiveGeluTanh, 37>(300);
  check_activation<TypeParam, nn::Relu, NaiveRelu, 37>(300);
}

template <class Scalar, int columns>
void check_activation_of_a_tile() {
  SCOPED_TRACE(columns);
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, 1, columns), dy = normal(random, 1, columns);
  Matrix y(1, columns), dx(1, columns);
  for (index c = 0; c < columns; ++c) {
    y(0, c) = NaiveGelu::value(x(0, c));
    dx(0, c) = dy(0, c) * NaiveGelu::slope(x(0, c));
  }
  const Values<Scalar> x_values(x);
  const Sums<Scalar> dy_values(dy);
  Values<Scalar> gradient(1, columns), activated(1, columns);
  const Values<Scalar> gradient_before = gradient, activated_before = activated;
  cpu::detail::activation_backward<nn::Gelu>(columns, x_values.data(), dy_values.data(), gradient.data(),
                                             activated.data());
  expect_close("gradient", gradient, dx);
  expect_close("activated", activated, y);
  EXPECT_TRUE(gradient.same_guards(gradient_before) && activated.same_guards(activated_before));
}

TYPED_TEST(Activation, BackwardOfATileGivesBoth) {
  check_activation_of_a_tile<TypeParam, 1>();
  check_activation_of_a_tile<TypeParam, 48>();
  check_activation_of_a_tile<TypeParam, 131>();
}

}  // namespace
}  // namespace tessera::test
