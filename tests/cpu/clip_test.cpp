#include "tessera/cpu/clip.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

constexpr index sizes[] = {1, 37, 40003};
constexpr double free_to_go = 0, stop = 1;

template <class Scalar>
class Clip : public testing::Test {};
TYPED_TEST_SUITE(Clip, Scalars);

TYPED_TEST(Clip, SquaresAreAdded) {
  for (const index count : sizes) {
    Random random(1, Purpose::test, 0, 0);
    const Matrix from = normal(random, 1, count);
    const Sums<TypeParam> values(from);
    double expected = 3, first = 0;
    for (const double value : from.values) expected += value * value;
    for (const int threads : {1, 2, 3}) {
      double sum = 3;
      cpu::Backend<TypeParam> backend(threads);
      add_squares(backend, count, values.data(), &sum);
      EXPECT_EQ(sum, 3) << "touched while planning";
      backend.arena().commit();
      spoil(backend.arena());
      add_squares(backend, count, values.data(), &sum);
      EXPECT_NEAR(sum, expected, rounding<Accumulator<TypeParam>> * expected);
      if (threads == 1) first = sum;
      EXPECT_EQ(sum, first) << threads << " threads";
    }
  }
}

TYPED_TEST(Clip, LargeGradientsAreScaledToTheLimit) {
  for (const index count : sizes)
    for (const double limit : {0.5, 3.0}) {
      Random random(1, Purpose::test, 0, 0);
      Matrix gradient = normal(random, 1, count);
      Sums<TypeParam> values(gradient);
      const double square = 4;  // a norm of 2
      if (limit < 2)
        for (double& value : gradient.values) value *= limit / (2 + 1e-6);
      run_operation<TypeParam>([&](auto& backend) { clip(backend, count, limit, &square, &free_to_go, values.data()); },
                               values);
      expect_close("gradient", values, gradient, limit < 2 ? rounding<Accumulator<TypeParam>> : 0);
    }
}

TYPED_TEST(Clip, WhatIsBlockedStays) {
  Random random(1, Purpose::test, 0, 0);
  const Matrix gradient = normal(random, 1, 37);
  Sums<TypeParam> values(gradient);
  const double square = 4;
  run_operation<TypeParam>([&](auto& backend) { clip(backend, 37, 0.5, &square, &stop, values.data()); }, values);
  expect_close("gradient", values, gradient, 0);
}

}  // namespace
}  // namespace tessera::test
