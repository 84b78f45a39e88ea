#include "tessera/cpu/update.hpp"

#include "support/definition.hpp"
#include "support/operation.hpp"
#include "tessera/optim/lamb.hpp"
#include "tessera/optim/lars.hpp"

namespace tessera::test {
namespace {

constexpr index sizes[] = {1, 37, 40000};

template <class Scalar>
class Update : public testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(overflow, 0) << "with values that are finite"; }

  double overflow = 0;
};
TYPED_TEST_SUITE(Update, Scalars);

TYPED_TEST(Update, MovingAverageKeepsItsShare) {
  for (const index count : sizes)
    for (const double m : {0.0, 0.99, 1.0}) {
      SCOPED_TRACE(fmt::format("{} values, m = {}", count, m));
      Random random(1, Purpose::test, 0, 0);
      const Matrix x = normal(random, 1, count);
      Matrix average = normal(random, 1, count);
      const Sums<TypeParam> x_values(x);
      ParameterValues<TypeParam> average_values(average);
      for (index i = 0; i < count; ++i) average(0, i) = m * average(0, i) + (1 - m) * x(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) { moving_average(backend, count, &m, x_values.data(), average_values); }, average_values);
      expect_close("average", average_values, average, m == 0.99 ? rounding<Accumulator<TypeParam>> : 0);
    }
}

TEST(UpdateOfCopies, RoundsTheMasterValues) {
  for (const index count : sizes) {
    Random random(1, Purpose::test, 0, 0);
    Matrix from = normal(random, 1, count);
    from(0, count / 2) = std::numeric_limits<double>::infinity();
    Values<float> master(from);
    Values<bf16> copy(1, count);
    const Values<float> before = master;
    run_operation<bf16>(
        [&](auto& backend) {
          copy_to_low(backend, count, MasterAndCopy<bf16>{master.data(), copy.data()});
        },
        copy);
    EXPECT_TRUE(master.same_bits(before));
    EXPECT_TRUE(std::ranges::equal(copy.span(), Values<bf16>(from).span(), {}, &bf16::bits, &bf16::bits));
  }
}

constexpr double free_to_go = 0, stop = 1;
constexpr optim::Group alike;

TYPED_TEST(Update, AdamWDecaysAndFollowsTheMoments) {
  for (const optim::AdamCoefficients& c : {early, late})
    for (const index count : sizes) {
      SCOPED_TRACE(fmt::format("correction {}, {} values", c.correction1, count));
      Adam adam = Adam::random(count);
      const Sums<TypeParam> gradient(adam.gradient);
      ParameterValues<TypeParam> weight(adam.weight);
      Sums<TypeParam> moment1(adam.moment1), moment2(adam.moment2);
      const Matrix direction = adam.direction(c);
      for (index i = 0; i < count; ++i)
        adam.weight(0, i) =
            adam.weight(0, i) * (1 - c.learning_rate * c.weight_decay) - c.learning_rate * direction(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) {
            update_elements<optim::AdamW>(backend, count, &c, alike, &free_to_go, &this->overflow, gradient.data(),
                                          weight, std::array{moment1.data(), moment2.data()});
          },
          weight, moment1, moment2);
      expect_close("weight", weight, adam.weight);
      expect_close("moment1", moment1, adam.moment1);
      expect_close("moment2", moment2, adam.moment2);
    }
}

TYPED_TEST(Update, LambScalesItsDirectionByTheTensorsSize) {
  for (const optim::AdamCoefficients& c : {early, late})
    for (const index count : sizes) {
      SCOPED_TRACE(fmt::format("correction {}, {} values", c.correction1, count));
      Adam adam = Adam::random(count);
      const Sums<TypeParam> gradient(adam.gradient);
      ParameterValues<TypeParam> weight(adam.weight);
      Sums<TypeParam> moment1(adam.moment1), moment2(adam.moment2), direction(1, count);
      Matrix expected = adam.direction(c);
      for (index i = 0; i < count; ++i) expected(0, i) += c.weight_decay * adam.weight(0, i);
      const double ratio = size_of(adam.weight) / size_of(expected);
      for (index i = 0; i < count; ++i) adam.weight(0, i) -= c.learning_rate * ratio * expected(0, i);
      run_operation<TypeParam>(
          [&](auto& backend) {
            update_tensor<optim::Lamb>(backend, count, &c, alike, true, &free_to_go, &this->overflow, gradient.data(),
                                       weight, std::array{moment1.data(), moment2.data(), direction.data()});
          },
          weight, moment1, moment2, direction);
      expect_close("weight", weight, adam.weight);
      expect_close("direction", direction, expected);
      expect_close("moment1", moment1, adam.moment1);
      expect_close("moment2", moment2, adam.moment2);
    }
}

constexpr optim::MomentumCoefficients with_decay{0.1, 0.3, 0.9, 1}, without_decay{0.5, 0, 0.8, 1};

TYPED_TEST(Update, SgdDecaysTheGradient) {
  for (const optim::MomentumCoefficients& c : {with_decay, without_decay})
    for (const index count : sizes) {
      Momentum expected = Momentum::random(count);
      const Sums<TypeParam> gradient(expected.gradient);
      ParameterValues<TypeParam> weight(expected.weight);
      Sums<TypeParam> velocity(expected.velocity);
      expected.move(c, 1, c.weight_decay);
      run_operation<TypeParam>(
          [&](auto& backend) {
            update_elements<optim::Sgd>(backend, count, &c, alike, &free_to_go, &this->overflow, gradient.data(),
                                        weight, std::array{velocity.data()});
          },
          weight, velocity);
      expect_close("weight", weight, expected.weight);
      expect_close("velocity", velocity, expected.velocity);
    }
}

// Tensors that do not adapt come with a group without decay.
constexpr optim::Group without_decay_of_its_own{.decay = 0};
constexpr optim::MomentumCoefficients little_trust{0.1, 0.3, 0.9, 0.001}, more_trust{0.5, 0, 0.8, 0.02};

TYPED_TEST(Update, LarsTrustsMatricesByTheirSize) {
  for (const bool matrix : {true, false})
    for (const optim::MomentumCoefficients& c : {little_trust, more_trust})
      for (const index count : sizes) {
        Momentum expected = Momentum::random(count);
        const Sums<TypeParam> gradient(expected.gradient);
        ParameterValues<TypeParam> weight(expected.weight);
        Sums<TypeParam> velocity(expected.velocity);
        Matrix decayed = expected.gradient;
        for (index i = 0; i < count; ++i) decayed(0, i) += c.weight_decay * expected.weight(0, i);
        if (matrix)
          expected.move(c, c.trust * size_of(expected.weight) / size_of(decayed), c.weight_decay);
        else
          expected.move(c, 1, 0);
        run_operation<TypeParam>(
            [&](auto& backend) {
              update_tensor<optim::Lars>(backend, count, &c, matrix ? alike : without_decay_of_its_own, matrix,
                                         &free_to_go, &this->overflow, gradient.data(), weight,
                                         std::array{velocity.data()});
            },
            weight, velocity);
        expect_close("weight", weight, expected.weight);
        expect_close("velocity", velocity, expected.velocity);
      }
}

TYPED_TEST(Update, LarsLeavesTensorsOfZerosTheirRate) {
  const optim::MomentumCoefficients c{0.1, 0, 0, 0.001};
  const Sums<TypeParam> gradient(Matrix(1, 3, 2));
  ParameterValues<TypeParam> weight(Matrix(1, 3, 0));
  Sums<TypeParam> velocity(Matrix(1, 3, 0));
  run_operation<TypeParam>(
      [&](auto& backend) {
        update_tensor<optim::Lars>(backend, 3, &c, alike, true, &free_to_go, &this->overflow, gradient.data(), weight,
                                   std::array{velocity.data()});
      },
      weight, velocity);
  expect_close("weight", weight, Matrix(1, 3, -0.2));
}

TYPED_TEST(Update, ChangesNothingWhenBlocked) {
  const index count = 37;
  const Adam adam = Adam::random(count);
  const Sums<TypeParam> gradient(adam.gradient);
  ParameterValues<TypeParam> weight(adam.weight);
  Sums<TypeParam> state1(adam.moment1), state2(adam.moment2), state3(adam.moment2);
  const auto weight_before = weight;
  const auto state1_before = state1, state2_before = state2, state3_before = state3;
  run_operation<TypeParam>(
      [&](auto& backend) {
        const std::array states{state1.data(), state2.data(), state3.data()};
        const auto* const g = gradient.data();
        update_elements<optim::AdamW>(backend, count, &late, alike, &stop, &this->overflow, g, weight,
                                      std::array{states[0], states[1]});
        update_elements<optim::Sgd>(backend, count, &with_decay, alike, &stop, &this->overflow, g, weight,
                                    std::array{states[0]});
        update_tensor<optim::Lamb>(backend, count, &late, alike, true, &stop, &this->overflow, g, weight, states);
        update_tensor<optim::Lars>(backend, count, &with_decay, alike, true, &stop, &this->overflow, g, weight,
                                   std::array{states[0]});
      },
      weight, state1, state2, state3);
  EXPECT_TRUE(weight.same_bits(weight_before));
  EXPECT_TRUE(state1.same_bits(state1_before));
  EXPECT_TRUE(state2.same_bits(state2_before));
  EXPECT_TRUE(state3.same_bits(state3_before));
}

// The lanes behind the end of a tensor, where LAMB's direction is 0 / 0, do not count.
TYPED_TEST(Update, LambTakesNormsOfTheTensorAlone) {
  optim::AdamCoefficients c = late;
  c.epsilon = 0;
  for (const index count : {1, 37}) {
    Adam adam = Adam::random(count);
    adam.gradient(0, 0) = adam.moment1(0, 0) = 1;
    const Sums<TypeParam> gradient(adam.gradient);
    ParameterValues<TypeParam> weight(adam.weight);
    Sums<TypeParam> moment1(adam.moment1), moment2(adam.moment2), direction(1, count);
    Matrix expected = adam.direction(c);
    for (index i = 0; i < count; ++i) expected(0, i) += c.weight_decay * adam.weight(0, i);
    const double ratio = size_of(adam.weight) / size_of(expected);
    for (index i = 0; i < count; ++i) adam.weight(0, i) -= c.learning_rate * ratio * expected(0, i);
    run_operation<TypeParam>(
        [&](auto& backend) {
          update_tensor<optim::Lamb>(backend, count, &c, alike, true, &free_to_go, &this->overflow, gradient.data(),
                                     weight, std::array{moment1.data(), moment2.data(), direction.data()});
        },
        weight, moment1, moment2, direction);
    expect_close("weight", weight, adam.weight);
  }
}

struct Overflow {
  double told;
  bool weights_are_finite;
};

// What an update of WithOneElement tells. `before`: what stands there in advance.
template <class Rule, class Scalar>
Overflow overflow_of(index count, index at, const Element& other, double before = 0) {
  const WithOneElement tensor(count, at, other);
  const Sums<Scalar> gradient(tensor.gradient);
  ParameterValues<Scalar> weight(tensor.weight);
  Sums<Scalar> moment1(tensor.moment1), moment2(tensor.moment2), direction(1, count);
  const auto* const g = gradient.data();
  cpu::Backend<Scalar> backend(3);
  double told = before;
  const auto update = [&] {
    if constexpr (std::is_same_v<Rule, optim::AdamW>)
      update_elements<Rule>(backend, count, &without_epsilon, alike, &free_to_go, &told, g, weight,
                            std::array{moment1.data(), moment2.data()});
    else if constexpr (std::is_same_v<Rule, optim::Lamb>)
      update_tensor<Rule>(backend, count, &without_epsilon, alike, true, &free_to_go, &told, g, weight,
                          std::array{moment1.data(), moment2.data(), direction.data()});
    else if constexpr (std::is_same_v<Rule, optim::Lars>)
      update_tensor<Rule>(backend, count, &without_trust, alike, false, &free_to_go, &told, g, weight,
                          std::array{moment1.data()});
    else
      update_elements<Rule>(backend, count, &without_trust, alike, &free_to_go, &told, g, weight,
                            std::array{moment1.data()});
  };
  update();
  EXPECT_EQ(told, before) << "while planning";
  backend.arena().commit();
  update();
  return {told, math::all_finite(weight.master().data(), count)};
}

template <class Rule, class Scalar>
void check_overflow() {
  constexpr bool adam = std::is_same_v<Rule, optim::AdamW> || std::is_same_v<Rule, optim::Lamb>;
  for (const index count : sizes) {
    EXPECT_EQ((overflow_of<Rule, Scalar>(count, 0, {}).told), 0) << count;
    EXPECT_EQ((overflow_of<Rule, Scalar>(count, 0, {}, 1).told), 1) << "was 1 before";
    for (const index at : {index{0}, count / 2, count - 1}) {
      SCOPED_TRACE(fmt::format("{}: {} of {}", Rule::name, at, count));
      EXPECT_EQ((overflow_of<Rule, Scalar>(count, at, overflowing_weight<Accumulator<Scalar>>).told), 1);
      const Overflow by_state = overflow_of<Rule, Scalar>(count, at, overflowing_state<Accumulator<Scalar>>);
      EXPECT_EQ(by_state.told, 1);
      EXPECT_EQ(by_state.weights_are_finite, adam);
    }
  }
}

TYPED_TEST(Update, TellsOfAnyResultThatIsNotFinite) {
  check_overflow<optim::AdamW, TypeParam>();
  check_overflow<optim::Sgd, TypeParam>();
  check_overflow<optim::Lars, TypeParam>();
  check_overflow<optim::Lamb, TypeParam>();
}

TYPED_TEST(Update, SquaredNormsAreOfEveryEntry) {
  const std::array<Entry, 3> entries{Entry{Name("a"), Shape(37), Role::trained, {}, 0},
                                     Entry{Name("b"), Shape(5), Role::statistic, {}, 0},
                                     Entry{Name("c"), Shape(3, 3000), Role::frozen, {}, 128}};
  Random random(1, Purpose::test, 0, 0);
  const Matrix values = normal(random, 1, 128 + 9000, 1);
  Matrix expected(1, 3);
  for (const int i : {0, 2})
    for (index at = 0; at < entries[static_cast<std::size_t>(i)].size(); ++at) {
      const double value = values(0, entries[static_cast<std::size_t>(i)].offset + at);
      expected(0, i) += value * value;
    }
  const Sums<TypeParam> kept(values);
  std::array<double, 3> squares{};
  cpu::Backend<TypeParam> backend(2);
  static_cast<void>(backend.arena().template take<double>(1));
  backend.arena().commit();
  squared_norms(backend, std::span<const Entry>(entries), kept.data(), squares.data());
  for (const std::size_t i : {0u, 1u, 2u})
    EXPECT_NEAR(squares[i], expected(0, static_cast<index>(i)), rounding<Accumulator<TypeParam>> * 1e4) << i;
}

TYPED_TEST(Update, CheckFiniteFindsOneThatIsNot) {
  using Sum = Accumulator<TypeParam>;
  using Limits = std::numeric_limits<Sum>;
  cpu::Backend<TypeParam> backend(2);
  static_cast<void>(backend.arena().template take<double>(1));
  backend.arena().commit();
  constexpr index count = 1000;
  std::vector<Sum> values(count, Limits::max());
  const auto blocked = [&](double loss, index size) {
    double result = -1;
    check_finite(backend, size, static_cast<const Sum*>(values.data()), &loss, &result);
    return result;
  };
  EXPECT_EQ(blocked(1.0, count), 0);
  EXPECT_EQ(blocked(1.0, 0), 0);
  EXPECT_EQ(blocked(std::numeric_limits<double>::quiet_NaN(), count), 1);
  for (const std::size_t at : {0u, 517u, 999u})
    for (const Sum bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
      values[at] = bad;
      EXPECT_EQ(blocked(1.0, count), 1) << bad << " at " << at;
      values[at] = Limits::denorm_min();
    }
  EXPECT_EQ(blocked(1.0, count), 0);
}

}  // namespace
}  // namespace tessera::test
