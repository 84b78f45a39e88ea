#include "tessera/cuda/clip.hpp"

#include "cuda/operation.hpp"

namespace tessera::test {
namespace {

constexpr index sizes[] = {1, 37, 4096, 40003};

template <class Scalar>
class DeviceClip : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceClip, DeviceScalars);

TYPED_TEST(DeviceClip, SquaresAreAdded) {
  for (const index count : sizes) {
    Random random(1, Purpose::test, 0, 0);
    const Matrix from = normal(random, 1, count);
    const DeviceValues<float> values(from);
    Matrix expected(1, 1, 3);
    const DeviceValues<double> sum(expected);
    for (const double value : from.values) expected(0, 0) += value * value;
    run_on_device<TypeParam>(
        [&](cuda::Backend<TypeParam>& backend) {
          add_squares(backend, count, static_cast<const float*>(values.data()), sum.data());
        },
        sum);
    expect_close("sum", sum, expected, 1e-6);
  }
}

TYPED_TEST(DeviceClip, LargeGradientsAreScaledToTheLimit) {
  const DeviceValues<double> square(Matrix(1, 1, 4));  // a norm of 2
  for (const double stop : {0.0, 1.0})
    for (const index count : sizes)
      for (const double limit : {0.5, 3.0}) {
        Random random(1, Purpose::test, 0, 0);
        Matrix gradient = normal(random, 1, count);
        const DeviceValues<float> values(gradient);
        const DeviceValues<double> blocked(Matrix(1, 1, stop));
        if (limit < 2 && stop == 0)
          for (double& value : gradient.values) value *= limit / (2 + 1e-6);
        run_on_device<TypeParam>(
            [&](cuda::Backend<TypeParam>& backend) {
              clip(backend, count, limit, static_cast<const double*>(square.data()),
                   static_cast<const double*>(blocked.data()), values.data());
            },
            values);
        expect_close("gradient", values, gradient, limit < 2 && stop == 0 ? 1e-6 : 0);
      }
}

}  // namespace
}  // namespace tessera::test
