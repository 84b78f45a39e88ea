#include "tessera/optim/rule.hpp"

#include <gtest/gtest.h>

#include "support/optimizer.hpp"
#include "support/rules.hpp"
#include "tessera/core/random.hpp"

namespace tessera::test {
namespace {

struct WithoutStates {
  static constexpr std::string_view name = "without_states";
};
struct WithManyCoefficients : Lion {
  struct Coefficients : Lion::Coefficients {
    double more[5];
  };
  [[nodiscard]] static Coefficients coefficients(double, long) { return {}; }
};
struct WithTwoStates : Lion {
  static constexpr int states = 2;  // but its update takes one
};

TEST(Rule, IsRecognised) {
  static_assert(optim::OptimizerRule<optim::AdamW> && !optim::TensorRule<optim::AdamW>);
  static_assert(optim::OptimizerRule<optim::Sgd> && !optim::TensorRule<optim::Sgd>);
  static_assert(optim::OptimizerRule<optim::Lars> && optim::TensorRule<optim::Lars>);
  static_assert(optim::OptimizerRule<optim::Lamb> && optim::TensorRule<optim::Lamb>);
  static_assert(optim::OptimizerRule<Lion> && optim::OptimizerRule<NormalizedSgd>);
  static_assert(!optim::OptimizerRule<WithoutStates> && !optim::OptimizerRule<WithManyCoefficients> &&
                !optim::OptimizerRule<WithTwoStates>);
}

// Elements and packs: 8 of the 25 have one of their own each, however wide packs are.
TEST(Rule, OfAUserRunsOnTheCpu) {
  constexpr index count = 25;
  const std::array entries{Entry{Name("a"), Shape(static_cast<int>(count)), Role::trained, {}, 0}};
  const Lion lion{.weight_decay = 0.3};
  Steps steps(
      lion, [](const Entry&) { return optim::Group{.rate = 0.5, .decay = 2}; }, entries, count);
  EXPECT_EQ(steps.updater.name(), "lion");
  EXPECT_EQ(steps.updater.states(), 1);
  EXPECT_FALSE(steps.updater.whole_tensors());
  std::vector<double> gradient(count), weight = steps.weight, momentum(count);
  Random random(1, Purpose::test, 0, 0);
  for (int step = 0; step < 3; ++step) {
    for (double& value : gradient) value = random.normal();
    gradient[3] = 0;
    steps.step(gradient, 0.1);
    for (std::size_t i = 0; i < weight.size(); ++i) {
      lion.define(0.05, 0.6, weight[i], gradient[i], momentum[i]);
      EXPECT_NEAR(steps.weight[i], weight[i], 1e-14) << i;
      EXPECT_NEAR(steps.states[0][i], momentum[i], 1e-14) << i;
    }
  }
}

TEST(Rule, OfAUserTakesNormsOfTensors) {
  Steps steps(NormalizedSgd{});
  EXPECT_EQ(steps.updater.states(), 0);
  EXPECT_TRUE(steps.updater.whole_tensors());
  steps.step(3.0);
  EXPECT_DOUBLE_EQ(steps.weight[0], 0.5 - 0.1 / std::sqrt(6.0));
  EXPECT_DOUBLE_EQ(steps.weight[bias], 0.5 - 0.1 / std::sqrt(2.0));
}

}  // namespace
}  // namespace tessera::test
