#include "tessera/cuda/update.hpp"

#include "cuda/operation.hpp"
#include "support/definition.hpp"
#include "support/rules.hpp"
#include "tessera/optim/lamb.hpp"
#include "tessera/optim/lars.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

constexpr index sizes[] = {1, 37, 4096, 40003};

template <class Scalar>
class DeviceUpdate : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceUpdate, DeviceScalars);

// A value in device memory, as updates read their coefficients.
template <class Value>
class OnDevice {
 public:
  explicit OnDevice(const Value& value) : buffer_(1) { upload(value); }
  [[nodiscard]] Value* data() const { return buffer_.data(); }
  void upload(const Value& value) const {
    if (cudaMemcpy(data(), &value, sizeof(Value), cudaMemcpyHostToDevice) != cudaSuccess)
      throw Error("cudaMemcpy failed");
  }
  [[nodiscard]] Value download() const {
    Value value;
    if (cudaMemcpy(&value, data(), sizeof(Value), cudaMemcpyDeviceToHost) != cudaSuccess)
      throw Error("cudaMemcpy failed");
    return value;
  }

 private:
  cuda::Buffer<Value> buffer_;
};

// A parameter's master values and, for bf16, their copy, which is NaN at first.
template <class Scalar>
struct DeviceParameter {
  DeviceValues<float> master;
  DeviceValues<Scalar> copy;

  explicit DeviceParameter(const Matrix& values) : master(values), copy(values.rows, values.columns) {}

  [[nodiscard]] Parameter<Scalar> data() const {
    if constexpr (std::is_same_v<Scalar, float>)
      return master.data();
    else
      return {master.data(), copy.data()};
  }
  void expect(const char* name, const Matrix& expected, double bound) const {
    expect_close(name, master, expected, bound);
    if constexpr (!std::is_same_v<Scalar, float>) expect_copy(name);
  }
  void expect_copy(const char* name) const {
    const Matrix values = master.values(), rounded = copy.values();
    EXPECT_EQ(rounded.values, stored<Scalar>(values).values) << name;
  }
};

constexpr double bound = 5e-6;
constexpr optim::Group alike;

TYPED_TEST(DeviceUpdate, MovingAverageKeepsItsShare) {
  for (const index count : sizes)
    for (const double m : {0.0, 0.99, 1.0}) {
      SCOPED_TRACE(fmt::format("{} values, m = {}", count, m));
      Random random(1, Purpose::test, 0, 0);
      const Matrix x = normal(random, 1, count);
      Matrix average = normal(random, 1, count);
      const OnDevice<double> share(m);
      const DeviceValues<float> from(x);
      const DeviceParameter<TypeParam> to(average);
      for (index i = 0; i < count; ++i) average(0, i) = m * average(0, i) + (1 - m) * x(0, i);
      run_on_device<TypeParam>(
          [&](cuda::Backend<TypeParam>& backend) {
            moving_average(backend, count, share.data(), static_cast<const float*>(from.data()), to.data());
          },
          to.master, to.copy);
      to.expect("average", average, m == 0.99 ? bound : 0);
    }
}

TYPED_TEST(DeviceUpdate, CopiesAreRounded) {
  for (const index count : sizes) {
    Random random(1, Purpose::test, 0, 0);
    const DeviceParameter<TypeParam> values(normal(random, 1, count));
    run_on_device<TypeParam>([&](cuda::Backend<TypeParam>& backend) { copy_to_low(backend, count, values.data()); },
                             values.copy);
    EXPECT_TRUE(values.master.untouched());
    if constexpr (!std::is_same_v<TypeParam, float>) values.expect_copy("copy");
  }
}

TYPED_TEST(DeviceUpdate, AdamWDecaysAndFollowsTheMoments) {
  const OnDevice<double> blocked(0), overflow(0);
  for (const optim::AdamCoefficients& c : {early, late})
    for (const index count : sizes) {
      SCOPED_TRACE(fmt::format("correction {}, {} values", c.correction1, count));
      Adam adam = Adam::random(count);
      const OnDevice<optim::AdamCoefficients> coefficients(c);
      const DeviceValues<float> gradient(adam.gradient), moment1(adam.moment1), moment2(adam.moment2);
      const DeviceParameter<TypeParam> weight(adam.weight);
      const Matrix direction = adam.direction(c);
      for (index i = 0; i < count; ++i)
        adam.weight(0, i) =
            adam.weight(0, i) * (1 - c.learning_rate * c.weight_decay) - c.learning_rate * direction(0, i);
      run_on_device<TypeParam>(
          [&](cuda::Backend<TypeParam>& backend) {
            update_elements<optim::AdamW>(backend, count, coefficients.data(), alike, blocked.data(), overflow.data(),
                                          gradient.data(), weight.data(), std::array{moment1.data(), moment2.data()});
          },
          weight.master, weight.copy, moment1, moment2);
      weight.expect("weight", adam.weight, bound);
      expect_close("moment1", moment1, adam.moment1, bound);
      expect_close("moment2", moment2, adam.moment2, bound);
    }
  EXPECT_EQ(overflow.download(), 0);
}

template <class Scalar>
void check_lamb(const optim::AdamCoefficients& c, index count) {
  SCOPED_TRACE(fmt::format("correction {}, {} values", c.correction1, count));
  Adam adam = Adam::random(count);
  const OnDevice<double> blocked(0), overflow(0);
  const OnDevice<optim::AdamCoefficients> coefficients(c);
  const DeviceValues<float> gradient(adam.gradient), moment1(adam.moment1), moment2(adam.moment2), direction(1, count);
  const DeviceParameter<Scalar> weight(adam.weight);
  Matrix expected = adam.direction(c);
  for (index i = 0; i < count; ++i) expected(0, i) += c.weight_decay * adam.weight(0, i);
  const double ratio = size_of(adam.weight) / size_of(expected);
  for (index i = 0; i < count; ++i) adam.weight(0, i) -= c.learning_rate * ratio * expected(0, i);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        update_tensor<optim::Lamb>(backend, count, coefficients.data(), alike, true, blocked.data(), overflow.data(),
                                   gradient.data(), weight.data(),
                                   std::array{moment1.data(), moment2.data(), direction.data()});
      },
      weight.master, weight.copy, moment1, moment2, direction);
  weight.expect("weight", adam.weight, bound);
  expect_close("direction", direction, expected, bound);
  expect_close("moment1", moment1, adam.moment1, bound);
  expect_close("moment2", moment2, adam.moment2, bound);
  EXPECT_EQ(overflow.download(), 0);
}

TYPED_TEST(DeviceUpdate, LambScalesItsDirectionByTheTensorsSize) {
  for (const optim::AdamCoefficients& c : {early, late})
    for (const index count : sizes) check_lamb<TypeParam>(c, count);
}

constexpr optim::MomentumCoefficients with_decay{0.1, 0.3, 0.9, 1}, without_decay{0.5, 0, 0.8, 1};

TYPED_TEST(DeviceUpdate, SgdDecaysTheGradient) {
  const OnDevice<double> blocked(0), overflow(0);
  for (const optim::MomentumCoefficients& c : {with_decay, without_decay})
    for (const index count : sizes) {
      Momentum expected = Momentum::random(count);
      const OnDevice<optim::MomentumCoefficients> coefficients(c);
      const DeviceValues<float> gradient(expected.gradient), velocity(expected.velocity);
      const DeviceParameter<TypeParam> weight(expected.weight);
      expected.move(c, 1, c.weight_decay);
      run_on_device<TypeParam>(
          [&](cuda::Backend<TypeParam>& backend) {
            update_elements<optim::Sgd>(backend, count, coefficients.data(), alike, blocked.data(), overflow.data(),
                                        gradient.data(), weight.data(), std::array{velocity.data()});
          },
          weight.master, weight.copy, velocity);
      weight.expect("weight", expected.weight, bound);
      expect_close("velocity", velocity, expected.velocity, bound);
    }
  EXPECT_EQ(overflow.download(), 0);
}

// Tensors that do not adapt come with a group without decay.
constexpr optim::Group without_decay_of_its_own{.decay = 0};
constexpr optim::MomentumCoefficients more_trust{0.1, 0.3, 0.9, 0.5}, little_trust{0.5, 0, 0.8, 0.02};

template <class Scalar>
void check_lars(const optim::MomentumCoefficients& c, bool matrix, index count) {
  SCOPED_TRACE(fmt::format("{} values, {}", count, matrix ? "matrix" : "vector"));
  Momentum expected = Momentum::random(count);
  const OnDevice<double> blocked(0), overflow(0);
  const OnDevice<optim::MomentumCoefficients> coefficients(c);
  const DeviceValues<float> gradient(expected.gradient), velocity(expected.velocity);
  const DeviceParameter<Scalar> weight(expected.weight);
  Matrix decayed = expected.gradient;
  for (index i = 0; i < count; ++i) decayed(0, i) += c.weight_decay * expected.weight(0, i);
  if (matrix)
    expected.move(c, c.trust * size_of(expected.weight) / size_of(decayed), c.weight_decay);
  else
    expected.move(c, 1, 0);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        update_tensor<optim::Lars>(backend, count, coefficients.data(), matrix ? alike : without_decay_of_its_own,
                                   matrix, blocked.data(), overflow.data(), gradient.data(), weight.data(),
                                   std::array{velocity.data()});
      },
      weight.master, weight.copy, velocity);
  weight.expect("weight", expected.weight, bound);
  expect_close("velocity", velocity, expected.velocity, bound);
  EXPECT_EQ(overflow.download(), 0);
}

TYPED_TEST(DeviceUpdate, LarsTrustsMatricesByTheirSize) {
  for (const bool matrix : {true, false})
    for (const optim::MomentumCoefficients& c : {more_trust, little_trust})
      for (const index count : sizes) check_lars<TypeParam>(c, matrix, count);
}

// More than one piece to a thread while norms are taken, and more parts of them than a block has threads.
TYPED_TEST(DeviceUpdate, NormsAreOfLargeTensors) {
  check_lars<TypeParam>(more_trust, true, 530007);
}

TYPED_TEST(DeviceUpdate, TensorsOfZerosHaveARateOfOne) {
  const OnDevice<double> blocked(0), overflow(0);
  const OnDevice<optim::MomentumCoefficients> sgd(optim::MomentumCoefficients{0.1, 0, 0, 0.001});
  const OnDevice<optim::AdamCoefficients> adam(optim::AdamCoefficients{0.1, 0, 0, 0, 1e-6, 1, 1, 1});
  const DeviceValues<float> gradient(Matrix(1, 3, 2)), velocity(Matrix(1, 3)), moment1(Matrix(1, 3)),
      moment2(Matrix(1, 3)), direction(1, 3);
  const DeviceParameter<TypeParam> by_lars(Matrix(1, 3)), by_lamb(Matrix(1, 3));
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        update_tensor<optim::Lars>(backend, 3, sgd.data(), alike, true, blocked.data(), overflow.data(),
                                   gradient.data(), by_lars.data(), std::array{velocity.data()});
        update_tensor<optim::Lamb>(backend, 3, adam.data(), alike, true, blocked.data(), overflow.data(),
                                   gradient.data(), by_lamb.data(),
                                   std::array{moment1.data(), moment2.data(), direction.data()});
      },
      by_lars.master, by_lars.copy, by_lamb.master, by_lamb.copy, velocity, moment1, moment2, direction);
  by_lars.expect("weight by LARS", Matrix(1, 3, -0.2), bound);
  by_lamb.expect("weight by LAMB", Matrix(1, 3, -0.1), bound);
}

TYPED_TEST(DeviceUpdate, ChangesNothingWhenBlocked) {
  constexpr index count = 37;
  const Adam adam = Adam::random(count);
  const OnDevice<double> blocked(1), overflow(0);
  const OnDevice<optim::AdamCoefficients> adam_coefficients(late);
  const OnDevice<optim::MomentumCoefficients> sgd_coefficients(with_decay);
  const DeviceValues<float> gradient(adam.gradient), state1(adam.moment1), state2(adam.moment2), state3(adam.moment2);
  const DeviceParameter<TypeParam> weight(adam.weight);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        const std::array states{state1.data(), state2.data(), state3.data()};
        const optim::AdamCoefficients* const adam_c = adam_coefficients.data();
        const optim::MomentumCoefficients* const sgd_c = sgd_coefficients.data();
        const float* const g = gradient.data();
        const auto w = weight.data();
        update_elements<optim::AdamW>(backend, count, adam_c, alike, blocked.data(), overflow.data(), g, w,
                                      std::array{states[0], states[1]});
        update_elements<optim::Sgd>(backend, count, sgd_c, alike, blocked.data(), overflow.data(), g, w,
                                    std::array{states[0]});
        update_tensor<optim::Lamb>(backend, count, adam_c, alike, true, blocked.data(), overflow.data(), g, w, states);
        for (const bool matrix : {true, false})
          update_tensor<optim::Lars>(backend, count, sgd_c, alike, matrix, blocked.data(), overflow.data(), g, w,
                                     std::array{states[0]});
      },
      weight.master, weight.copy, state1, state2, state3);
  for (const auto* values : {&weight.master, &state1, &state2, &state3}) EXPECT_TRUE(values->untouched());
  EXPECT_TRUE(weight.copy.untouched());
}

// A user's rule on two groups and a frozen one, with a gap of zeros behind the first tensor.
TYPED_TEST(DeviceUpdate, RunsAUsersRuleOnGroups) {
  const std::array<Entry, 3> entries{Entry{Name("a"), Shape(37), Role::trained, {}, 0},
                                     Entry{Name("b"), Shape(3, 3000), Role::trained, {}, 128},
                                     Entry{Name("c"), Shape(50), Role::trained, {}, 9216}};
  constexpr index count = 9216 + 128;
  const std::array<optim::Group, 3> groups{optim::Group{.rate = 0.5, .decay = 0}, optim::Group{},
                                           optim::Group{.frozen = true}};
  const Part part{0, count, 0};
  const Lion lion{.weight_decay = 0.3};
  const optim::Updater<cuda::Backend<TypeParam>> updater(lion);
  const OnDevice<optim::StepCoefficients> coefficients(updater.coefficients(0.1, 1));
  const OnDevice<double> blocked(0), overflow(0);
  Random random(1, Purpose::test, 0, 0);
  Matrix gradient = normal(random, 1, count), weight = normal(random, 1, count), momentum = normal(random, 1, count);
  const DeviceValues<float> from(gradient), state(momentum);
  const DeviceParameter<TypeParam> to(weight);
  for (const std::size_t i : {0u, 1u})
    for (index at = entries[i].offset; at < entries[i].offset + entries[i].size(); ++at)
      lion.define(0.1 * groups[i].rate, 0.3 * groups[i].decay, weight(0, at), gradient(0, at), momentum(0, at));
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        float* const states[] = {state.data()};
        updater.step(backend, {entries,
                               groups,
                               {&part, 1},
                               coefficients.data(),
                               blocked.data(),
                               overflow.data(),
                               from.data(),
                               to.data(),
                               states});
      },
      to.master, to.copy, state);
  const Matrix weights = to.master.values(), states = state.values();
  for (const Entry& entry : entries)
    for (index at = entry.offset; at < entry.offset + entry.size(); ++at) {
      ASSERT_NEAR(weights(0, at), weight(0, at), 1e-6) << at;
      ASSERT_NEAR(states(0, at), momentum(0, at), 1e-6) << at;
    }
}

// What an update of WithOneElement tells.
template <class Rule, class Scalar>
double overflow_of(index count, index at, const Element& other) {
  const WithOneElement tensor(count, at, other);
  const DeviceValues<float> gradient(tensor.gradient), moment1(tensor.moment1), moment2(tensor.moment2),
      direction(1, count);
  const DeviceParameter<Scalar> weight(tensor.weight);
  const OnDevice<double> blocked(0), overflow(0);
  const OnDevice<optim::AdamCoefficients> adam(without_epsilon);
  const OnDevice<optim::MomentumCoefficients> momentum(without_trust);
  const float* const g = gradient.data();
  const auto w = weight.data();
  cuda::Backend<Scalar> backend;
  const auto update = [&] {
    if constexpr (std::is_same_v<Rule, optim::AdamW>)
      update_elements<Rule>(backend, count, adam.data(), alike, blocked.data(), overflow.data(), g, w,
                            std::array{moment1.data(), moment2.data()});
    else if constexpr (std::is_same_v<Rule, optim::Lamb>)
      update_tensor<Rule>(backend, count, adam.data(), alike, true, blocked.data(), overflow.data(), g, w,
                          std::array{moment1.data(), moment2.data(), direction.data()});
    else if constexpr (std::is_same_v<Rule, optim::Lars>)
      update_tensor<Rule>(backend, count, momentum.data(), alike, false, blocked.data(), overflow.data(), g, w,
                          std::array{moment1.data()});
    else
      update_elements<Rule>(backend, count, momentum.data(), alike, blocked.data(), overflow.data(), g, w,
                            std::array{moment1.data()});
  };
  update();
  backend.arena().commit();
  update();
  backend.wait();
  return overflow.download();
}

template <class Rule, class Scalar>
void check_overflow() {
  for (const index count : sizes) {
    EXPECT_EQ((overflow_of<Rule, Scalar>(count, 0, {})), 0) << Rule::name << ", " << count;
    for (const index at : {index{0}, count / 2, count - 1}) {
      SCOPED_TRACE(fmt::format("{}: {} of {}", Rule::name, at, count));
      EXPECT_EQ((overflow_of<Rule, Scalar>(count, at, overflowing_weight<float>)), 1);
      EXPECT_EQ((overflow_of<Rule, Scalar>(count, at, overflowing_state<float>)), 1);
    }
  }
}

TYPED_TEST(DeviceUpdate, TellsOfAnyResultThatIsNotFinite) {
  check_overflow<optim::AdamW, TypeParam>();
  check_overflow<optim::Sgd, TypeParam>();
  check_overflow<optim::Lars, TypeParam>();
  check_overflow<optim::Lamb, TypeParam>();
}

// More entries than one launch takes.
TYPED_TEST(DeviceUpdate, SquaredNormsAreOfEveryEntry) {
  std::vector<Entry> entries;
  index offset = 0;
  for (int i = 0; i < 70; ++i) {
    const Shape shape = i == 3 ? Shape(5, 8001) : Shape(1 + 37 * (i % 5));
    const Role role = i % 7 == 1 ? Role::statistic : i % 7 == 2 ? Role::frozen : Role::trained;
    entries.push_back({Name("entry"), shape, role, {}, role == Role::statistic ? 0 : offset});
    if (role != Role::statistic) offset += divide_up(shape.size(), entry_alignment) * entry_alignment;
  }
  Random random(1, Purpose::test, 0, 0);
  const Matrix values = normal(random, 1, offset, 1);
  Matrix expected(1, static_cast<index>(entries.size()));
  for (index i = 0; i < expected.columns; ++i)
    for (index at = 0; at < entries[static_cast<std::size_t>(i)].size(); ++at) {
      const Entry& entry = entries[static_cast<std::size_t>(i)];
      const double value = entry.role == Role::statistic ? 0 : values(0, entry.offset + at);
      expected(0, i) += value * value;
    }
  const DeviceValues<float> from(values);
  const DeviceValues<double> squares(1, expected.columns);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        squared_norms(backend, std::span<const Entry>(entries), static_cast<const float*>(from.data()), squares.data());
      },
      squares);
  const Matrix got = squares.values();
  for (std::size_t i = 0; i < entries.size(); ++i)
    EXPECT_NEAR(got.values[i], expected.values[i], 1e-6 * (1 + expected.values[i])) << i;
}

TYPED_TEST(DeviceUpdate, CheckFiniteFindsOneThatIsNot) {
  using Limits = std::numeric_limits<float>;
  constexpr index count = 8999;
  std::vector<float> values(count, Limits::max());
  const cuda::Buffer<float> buffer(count);
  const OnDevice<double> loss(1.0);
  const OnDevice<double> result(-1);
  cuda::Backend<TypeParam> backend;
  const auto check = [&](index size) {
    check_finite(backend, size, static_cast<const float*>(buffer.data()), loss.data(), result.data());
  };
  check(count);
  backend.wait();
  EXPECT_EQ(result.download(), -1) << "touched while planning";
  backend.arena().commit();
  const auto blocked = [&](index size) {
    result.upload(-1);
    backend.upload(count, values.data(), buffer.data());
    check(size);
    backend.wait();
    return result.download();
  };
  EXPECT_EQ(blocked(count), 0);
  EXPECT_EQ(blocked(0), 0);
  for (const std::size_t at : {0u, 517u, 8998u})
    for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
      values[at] = bad;
      EXPECT_EQ(blocked(count), 1) << bad << " at " << at;
      values[at] = Limits::denorm_min();
    }
  EXPECT_EQ(blocked(count), 0);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    loss.upload(bad);
    EXPECT_EQ(blocked(count), 1);
    EXPECT_EQ(blocked(0), 1);
  }
}

}  // namespace
}  // namespace tessera::test
