#include "tessera/optim/lars.hpp"

#include <gtest/gtest.h>

#include "support/optimizer.hpp"

namespace tessera::test {
namespace {

// d / |d| = 1 / sqrt 6 and |weight| = 0.5 sqrt 6.
TEST(Lars, TrustsMatricesByTheirSize) {
  EXPECT_NEAR(one_step(optim::Lars{.weight_decay = 0.3}, 2.0)[0], 0.5 - 0.1 * 0.001 * 0.5, 1e-12);
}

TEST(Lars, LeavesBiasesToPlainMomentum) {
  EXPECT_DOUBLE_EQ(one_step(optim::Lars{.weight_decay = 0.3}, 2.0)[bias], 0.5 - 0.1 * 2.0);
}

TEST(Lars, BiasesDoNotDecayWhateverTheirGroup) {
  const auto grouping = [](const Entry&) { return optim::Group{.rate = 0.5, .decay = 7}; };
  const auto weights = one_step(optim::Lars{.weight_decay = 0.3}, 2.0, grouping);
  EXPECT_DOUBLE_EQ(weights[bias], 0.5 - 0.05 * 2.0);
  EXPECT_NEAR(weights[0], 0.5 - 0.05 * 0.001 * 0.5, 1e-12);
}

TEST(Lars, TensorsWithANormOfZeroHaveARatioOfOne) {
  Steps steps(optim::Lars{.weight_decay = 0});
  steps.weight.assign(steps.weight.size(), 0);
  steps.step(2.0);
  EXPECT_DOUBLE_EQ(steps.weight[0], -0.1 * 2.0);
}

}  // namespace
}  // namespace tessera::test
