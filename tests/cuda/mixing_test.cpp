#include "tessera/cuda/mixing.hpp"

#include "cuda/operation.hpp"
#include "support/mixing.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceMix : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceMix, DeviceScalars);

template <class Scalar, int channels, int size>
void check(index images) {
  constexpr int values = channels * size * size;
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = stored<Scalar>(normal(random, images, values));
  const DeviceValues<Scalar> from(x);
  const cuda::Buffer<Mixing> on_device(1);
  for (const Mixing& mixing : mixings(size)) {
    SCOPED_TRACE(fmt::format("{} images, kind {}, lambda {}", images, static_cast<int>(mixing.kind), mixing.lambda));
    cuda::check(cudaMemcpy(on_device.data(), &mixing, sizeof(mixing), cudaMemcpyHostToDevice), "cudaMemcpy");
    const DeviceValues<Scalar> mixed(images, values);
    run_on_device<Scalar>(
        [&](cuda::Backend<Scalar>& backend) {
          mix_images<channels, size>(backend, static_cast<const Mixing*>(on_device.data()),
                                     from.template input<values>(), mixed.template output<values>());
        },
        mixed);
    expect_close("mixed", mixed, naive_mixed(x, mixing, size),
                 mixing.kind == Mixing::Kind::mixup ? device_rounding<Scalar> : 0);
  }
}

TYPED_TEST(DeviceMix, EqualsTheDefinition) {
  check<TypeParam, 3, 15>(6);
  check<TypeParam, 1, 8>(2);
  check<TypeParam, 2, 33>(21);
}

}  // namespace
}  // namespace tessera::test
