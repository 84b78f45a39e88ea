#include "tessera/cuda/linear.hpp"

#include "cuda/operation.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceLinear : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceLinear, DeviceScalars);

// A parameter of the device, with its copy where products read one.
template <class Scalar>
struct DeviceParameter {
  explicit DeviceParameter(const Matrix& from) : master(from), copy(from) {}

  operator Parameter<Scalar>() const {
    if constexpr (std::is_same_v<Scalar, Accumulator<Scalar>>)
      return copy.data();
    else
      return {master.data(), copy.data()};
  }

  DeviceValues<Accumulator<Scalar>> master;
  DeviceValues<Scalar> copy;
};

Matrix transposed(const Matrix& a) {
  Matrix t(a.columns, a.rows);
  for (index r = 0; r < a.rows; ++r)
    for (index c = 0; c < a.columns; ++c) t(c, r) = a(r, c);
  return t;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.columns);
  for (index i = 0; i < a.rows; ++i)
    for (index k = 0; k < a.columns; ++k)
      for (index j = 0; j < b.columns; ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}

template <class Scalar, int in, int out>
struct Case {
  explicit Case(index rows)
      : random(3, Purpose::test, in, out),
        x(stored<Scalar>(normal(random, rows, in))),
        weight(stored<Scalar>(normal(random, out, in))),
        bias(stored<Scalar>(normal(random, 1, out))),
        residual(stored<Scalar>(normal(random, rows, out))),
        dy(stored<Scalar>(normal(random, rows, out))) {}
  Random random;
  Matrix x, weight, bias, residual, dy;
};

template <class Scalar, int in, int out>
void check_forward(index rows) {
  const Case<Scalar, in, out> c(rows);
  Matrix plain = product(c.x, transposed(c.weight)), full = plain;
  for (index r = 0; r < rows; ++r)
    for (index j = 0; j < out; ++j) full(r, j) += c.bias(0, j) + c.residual(r, j);
  const DeviceValues<Scalar> x(c.x), residual(c.residual), y(rows, out), z(rows, out);
  const DeviceParameter<Scalar> weight(c.weight), bias(c.bias);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        linear_forward(backend, x.template input<in>(), weight, bias, residual.template input<out>(),
                       y.template output<out>());
        linear_forward(backend, x.template input<in>(), weight, Parameter<Scalar>{}, Rows<const Scalar, out>{},
                       z.template output<out>());
      },
      y, z);
  expect_close("with bias and residual", y, full);
  expect_close("without", z, plain);
}

template <class Scalar, int in, int out>
void check_backward(index rows) {
  const Case<Scalar, in, out> c(rows);
  Matrix d_bias(1, out);
  for (index r = 0; r < rows; ++r)
    for (index j = 0; j < out; ++j) d_bias(0, j) += c.dy(r, j);
  const DeviceValues<Scalar> x(c.x), dy(c.dy), dx(rows, in);
  const DeviceParameter<Scalar> weight(c.weight);
  const DeviceValues<Accumulator<Scalar>> d_weight(out, in), d_bias_values(1, out), alone(out, in);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        linear_weight_gradient(backend, x.template input<in>(), dy.template input<out>(), d_weight.data(),
                               d_bias_values.data());
        linear_weight_gradient(backend, x.template input<in>(), dy.template input<out>(), alone.data(),
                               static_cast<Accumulator<Scalar>*>(nullptr));
        linear_input_gradient(backend, dy.template input<out>(), weight, dx.template output<in>());
      },
      d_weight, d_bias_values, alone, dx);
  expect_close("dx", dx, product(c.dy, c.weight));
  expect_close("d_weight", d_weight, product(transposed(c.dy), c.x), device_rounding<float>);
  expect_close("d_weight without bias", alone, product(transposed(c.dy), c.x), device_rounding<float>);
  expect_close("d_bias", d_bias_values, d_bias, device_rounding<float>);
}

TYPED_TEST(DeviceLinear, ForwardAddsBiasAndResidual) {
  check_forward<TypeParam, 24, 40>(33);
  check_forward<TypeParam, 5, 1>(1);
}

TYPED_TEST(DeviceLinear, BackwardIsTheGradient) {
  check_backward<TypeParam, 24, 40>(33);
  check_backward<TypeParam, 7, 70>(1300);
}

#if defined(TESSERA_EMULATION)
TYPED_TEST(DeviceLinear, SumsTheBiasGradientWhereCublasDoesNot) {
  emulation::machine.bias_gradients = false;
  check_backward<TypeParam, 7, 70>(1300);
  check_backward<TypeParam, 3, 65>(512);
  check_backward<TypeParam, 3, 264>(128);
  check_backward<TypeParam, 2, 8>(128 * 128 + 1);  // sums of sums of pieces
  emulation::machine.bias_gradients = true;
}
#endif

template <class Scalar, int in, int out>
void check_activation(index rows) {
  const Case<Scalar, in, out> c(rows);
  Random random(4, Purpose::test, 0, 0);
  const Matrix before = stored<Scalar>(normal(random, rows, in));
  Matrix activated = before, d_before = product(c.dy, c.weight), d_bias(1, in);
  for (std::size_t i = 0; i < before.values.size(); ++i) {
    const auto [value, slope] = nn::Gelu::value_and_slope(before.values[i]);
    activated.values[i] = value;
    d_before.values[i] *= slope;
    d_bias.values[i % in] += d_before.values[i];
  }
  Matrix forward = product(c.x, transposed(c.weight));
  for (index r = 0; r < forward.rows; ++r)
    for (index j = 0; j < out; ++j) forward(r, j) += c.bias(0, j);
  Matrix forward_value = forward;
  for (double& value : forward_value.values) value = nn::Gelu::value(value);
  const DeviceValues<Scalar> x(c.x), dy(c.dy), in_before(before), out_before(rows, out), y(rows, out), d(rows, in),
      again(rows, in);
  const DeviceValues<Accumulator<Scalar>> d_bias_values(1, in);
  const DeviceParameter<Scalar> weight(c.weight), bias(c.bias);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        linear_activation_forward<nn::Gelu>(backend, x.template input<in>(), weight, bias,
                                            out_before.template output<out>(), y.template output<out>());
        linear_activation_gradient<nn::Gelu>(backend, dy.template input<out>(), weight, in_before.template input<in>(),
                                             d.template output<in>(), again.template output<in>(),
                                             d_bias_values.data());
      },
      out_before, y, d, again, d_bias_values);
  expect_close("before", out_before, forward);
  expect_close("y", y, forward_value);
  expect_close("d_before", d, d_before);
  expect_close("activated", again, activated);
  expect_close("d_bias", d_bias_values, d_bias, device_rounding<Scalar>);  // of a product that is rounded in between
}

TYPED_TEST(DeviceLinear, GoesThroughActivations) {
  check_activation<TypeParam, 40, 24>(33);
  check_activation<TypeParam, 7, 3>(1);
  check_activation<TypeParam, 264, 8>(300);  // two blocks of columns, three pieces of rows
}

TYPED_TEST(DeviceLinear, KeepsResultsWhileAlgorithmsAreChosen) {
  using Scalar = TypeParam;
  const Case<Scalar, 8, 16> c(9);
  const DeviceValues<Scalar> x(c.x), y(9, 16);
  const DeviceParameter<Scalar> weight(c.weight), bias(c.bias);
  cuda::Backend<Scalar> backend;
  const auto forward = [&] {
    linear_forward(backend, x.template input<8>(), weight, bias, Rows<const Scalar, 16>{}, y.template output<16>());
  };
  forward();
  backend.arena().commit();
  backend.choose_products(forward);
  EXPECT_FALSE(backend.planning());
  forward();
  backend.wait();
  Matrix expected = product(c.x, transposed(c.weight));
  for (index r = 0; r < 9; ++r)
    for (index j = 0; j < 16; ++j) expected(r, j) += c.bias(0, j);
  expect_close("y", y, expected);
}

}  // namespace
}  // namespace tessera::test
