#include "tessera/cpu/update.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

constexpr index sizes[] = {1, 37, 40000};

template <class Scalar>
class Update : public testing::Test {};
TYPED_TEST_SUITE(Update, Scalars);

TYPED_TEST(Update, MovingAverageKeepsItsShare) {
  for (const index count : sizes)
    for (const double m : {0.0, 0.99, 1.0}) {
      SCOPED_TRACE(fmt::format("{} values, m = {}", count, m));
      Random random(1, Purpose::test, 0, 0);
      const Matrix x = normal(random, 1, count);
      Matrix average = normal(random, 1, count);
      const Values<TypeParam> x_values(x);
      Values<TypeParam> average_values(average);
      for (index i = 0; i < count; ++i) average(0, i) = m * average(0, i) + (1 - m) * x(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) { moving_average(backend, count, m, x_values.data(), average_values.data()); },
          {&average_values});
      expect_close("average", average_values, average, m == 0.99 ? rounding<TypeParam> : 0);
    }
}

TYPED_TEST(Update, ScaleAndAddIsLinear) {
  for (const index count : sizes) {
    Random random(1, Purpose::test, 0, 0);
    const Matrix x = normal(random, 1, count);
    Matrix y = normal(random, 1, count);
    const Values<TypeParam> x_values(x);
    Values<TypeParam> y_values(y);
    for (index i = 0; i < count; ++i) y(0, i) = -0.3 * x(0, i) + 1.7 * y(0, i);
    run_operation<TypeParam>(
        [&](auto& backend) { scale_and_add(backend, count, -0.3, x_values.data(), 1.7, y_values.data()); },
        {&y_values});
    expect_close("y", y_values, y);
  }
}

struct Adam {
  Matrix gradient, weight, moment1, moment2;

  // In the midst of a training.
  static Adam random(index count) {
    Random random(1, Purpose::test, 0, 0);
    Adam adam{normal(random, 1, count), normal(random, 1, count), normal(random, 1, count, 0, 0.1),
              normal(random, 1, count)};
    for (double& value : adam.moment2.values) value *= value;
    adam.gradient(0, 0) = adam.moment1(0, 0) = adam.moment2(0, 0) = 0;
    return adam;
  }

  // Moves the moments and returns the bias-corrected direction.
  Matrix direction(const AdamCoefficients& c) {
    Matrix direction(1, gradient.columns);
    for (index i = 0; i < gradient.columns; ++i) {
      const double g = gradient(0, i);
      moment1(0, i) = c.beta1 * moment1(0, i) + (1 - c.beta1) * g;
      moment2(0, i) = c.beta2 * moment2(0, i) + (1 - c.beta2) * g * g;
      const double m = moment1(0, i) / (1 - std::pow(c.beta1, c.step));
      const double v = moment2(0, i) / (1 - std::pow(c.beta2, c.step));
      direction(0, i) = m / (std::sqrt(v) + c.epsilon);
    }
    return direction;
  }
};

constexpr AdamCoefficients late{0.01, 0.1, 0.9, 0.95, 1e-8, 7}, early{0.5, 0.2, 0.9, 0.999, 1e-3, 1};

TYPED_TEST(Update, AdamWDecaysAndFollowsTheMoments) {
  for (const AdamCoefficients& c : {early, late})
    for (const index count : sizes) {
      SCOPED_TRACE(fmt::format("step {}, {} values", c.step, count));
      Adam adam = Adam::random(count);
      const Values<TypeParam> gradient(adam.gradient);
      Values<TypeParam> weight(adam.weight), moment1(adam.moment1), moment2(adam.moment2);
      const Matrix direction = adam.direction(c);
      for (index i = 0; i < count; ++i)
        adam.weight(0, i) =
            adam.weight(0, i) * (1 - c.learning_rate * c.weight_decay) - c.learning_rate * direction(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) {
            adamw_update(backend, count, c, gradient.data(), weight.data(), moment1.data(), moment2.data());
          },
          {&weight, &moment1, &moment2});
      expect_close("weight", weight, adam.weight);
      expect_close("moment1", moment1, adam.moment1);
      expect_close("moment2", moment2, adam.moment2);
    }
}

TYPED_TEST(Update, LambsDirectionAddsDecay) {
  for (const AdamCoefficients& c : {early, late})
    for (const index count : sizes) {
      SCOPED_TRACE(fmt::format("step {}, {} values", c.step, count));
      Adam adam = Adam::random(count);
      const Values<TypeParam> gradient(adam.gradient), weight(adam.weight);
      Values<TypeParam> moment1(adam.moment1), moment2(adam.moment2), update(1, count);
      Matrix expected = adam.direction(c);
      for (index i = 0; i < count; ++i) expected(0, i) += c.weight_decay * adam.weight(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) {
            lamb_direction(backend, count, c, gradient.data(), weight.data(), moment1.data(), moment2.data(),
                           update.data());
          },
          {&moment1, &moment2, &update});
      expect_close("update", update, expected);
      expect_close("moment1", moment1, adam.moment1);
      expect_close("moment2", moment2, adam.moment2);
    }
}

TYPED_TEST(Update, NormIsEuclidean) {
  cpu::Backend<TypeParam> backend(2);
  for (const index count : {0, 1, 37, 4096, 10000}) {
    Random random(1, Purpose::test, 0, 0);
    const Matrix a = normal(random, 1, count, 1), b = normal(random, 1, count);
    const Values<TypeParam> a_values(a), b_values(b);
    double alone = 0, together = 0;
    for (index i = 0; i < count; ++i) {
      alone += a(0, i) * a(0, i);
      together += (a(0, i) - 0.4 * b(0, i)) * (a(0, i) - 0.4 * b(0, i));
    }
    const double bound = rounding<TypeParam> * (1 + std::sqrt(alone));
    EXPECT_NEAR(norm(backend, count, a_values.data()), std::sqrt(alone), bound) << count;
    EXPECT_NEAR(norm(backend, count, a_values.data(), -0.4, b_values.data()), std::sqrt(together), bound) << count;
  }
}

TYPED_TEST(Update, AllFiniteFindsOneThatIsNot) {
  using Limits = std::numeric_limits<TypeParam>;
  cpu::Backend<TypeParam> backend(2);
  constexpr index count = 1000;
  std::vector<TypeParam> values(count, Limits::max());
  EXPECT_TRUE(all_finite(backend, count, values.data()));
  EXPECT_TRUE(all_finite(backend, 0, values.data()));
  for (const std::size_t at : {0u, 517u, 999u})
    for (const TypeParam bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
      values[at] = bad;
      EXPECT_FALSE(all_finite(backend, count, values.data())) << bad << " at " << at;
      values[at] = Limits::denorm_min();
    }
  EXPECT_TRUE(all_finite(backend, count, values.data()));
}

}  // namespace
}  // namespace tessera::test
