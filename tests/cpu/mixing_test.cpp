#include "tessera/cpu/mixing.hpp"

#include "support/mixing.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Mix : public testing::Test {};
TYPED_TEST_SUITE(Mix, Scalars);

template <class Scalar, int channels, int size>
void check(index images) {
  constexpr int values = channels * size * size;
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, images, values);
  const Values<Scalar> from(x);
  for (const Mixing& mixing : mixings(size)) {
    SCOPED_TRACE(fmt::format("{} images, kind {}, lambda {}", images, static_cast<int>(mixing.kind), mixing.lambda));
    Values<Scalar> mixed(images, values);
    run_operation<Scalar>(
        [&](auto& backend) {
          mix_images<channels, size>(backend, &mixing, input<values>(from), output<values>(mixed));
        },
        mixed);
    expect_close("mixed", mixed, naive_mixed(x, mixing, size),
                 mixing.kind == Mixing::Kind::mixup ? rounding<Scalar> : 0);
  }
}

TYPED_TEST(Mix, EqualsTheDefinition) {
  check<TypeParam, 3, 15>(6);
  check<TypeParam, 1, 8>(2);
  check<TypeParam, 2, 33>(21);
}

}  // namespace
}  // namespace tessera::test
