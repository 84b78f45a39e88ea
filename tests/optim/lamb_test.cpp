#include "tessera/optim/lamb.hpp"

#include <gtest/gtest.h>

#include "support/optimizer.hpp"

namespace tessera::test {
namespace {

TEST(Lamb, ScalesByTheSizeOfTheTensor) {
  EXPECT_NEAR(one_step(optim::Lamb{.weight_decay = 0}, 2.0)[0], 0.5 - 0.1 * 0.5, 1e-6);
}

TEST(Lamb, KeepsTheDirection) {
  Steps steps(optim::Lamb{.weight_decay = 0.3});
  steps.step(2.0);
  ASSERT_EQ(steps.states.size(), 3u);
  EXPECT_NEAR(steps.states[2][0], 1 + 0.3 * 0.5, 1e-6);
}

TEST(Lamb, GroupsScaleRateAndDecay) {
  const auto grouping = [](const Entry& entry) { return optim::Group{.rate = 0.5, .decay = entry.shape.rank - 1.0}; };
  Steps steps(optim::Lamb{.weight_decay = 0.3}, grouping);
  steps.step(2.0);
  EXPECT_NEAR(steps.states[2][0], 1 + 0.3 * 0.5, 1e-6);
  EXPECT_NEAR(steps.states[2][bias], 1, 1e-6);
  EXPECT_NEAR(steps.weight[0], 0.5 - 0.05 * 0.5, 1e-6);
}

}  // namespace
}  // namespace tessera::test
