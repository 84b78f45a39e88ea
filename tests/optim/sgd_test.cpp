#include "tessera/optim/sgd.hpp"

#include <gtest/gtest.h>

#include "support/optimizer.hpp"

namespace tessera::test {
namespace {

TEST(Sgd, FirstStepIsTheGradient) {
  EXPECT_DOUBLE_EQ(one_step(optim::Sgd{.weight_decay = 0.5}, 2.0)[0], 0.5 - 0.1 * (2.0 + 0.5 * 0.5));
}

TEST(Sgd, VelocityIsKept) {
  Steps steps(optim::Sgd{.momentum = 0.5});
  steps.step(2.0);
  steps.step(1.0);
  EXPECT_DOUBLE_EQ(steps.states[0][0], 0.5 * 2.0 + 1.0);
  EXPECT_DOUBLE_EQ(steps.weight[0], 0.5 - 0.1 * 2.0 - 0.1 * 2.0);
}

TEST(Sgd, GroupsScaleRateAndDecay) {
  const auto grouping = [](const Entry&) { return optim::Group{.rate = 0.5, .decay = 2}; };
  EXPECT_DOUBLE_EQ(one_step(optim::Sgd{.weight_decay = 0.5}, 2.0, grouping)[0], 0.5 - 0.05 * (2.0 + 1.0 * 0.5));
}

}  // namespace
}  // namespace tessera::test
