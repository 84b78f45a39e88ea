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

TYPED_TEST(DeviceActivation, AddsTo) {
  Random random(1, Purpose::test, 8, 0);
  const Matrix x = stored<TypeParam>(normal(random, 9, 10)), y = stored<TypeParam>(normal(random, 9, 10));
  Matrix sum = y;
  for (std::size_t i = 0; i < x.values.size(); ++i) sum.values[i] += x.values[i];
  const DeviceValues<TypeParam> from(x), to(y);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) { add_to(backend, from.template input<10>(), to.template output<10>()); },
      to);
  expect_close("y", to, sum);
}

}  // namespace
}  // namespace tessera::test
