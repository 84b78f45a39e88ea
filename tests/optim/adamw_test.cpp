#include "tessera/optim/adamw.hpp"

#include <gtest/gtest.h>

#include "support/optimizer.hpp"

namespace tessera::test {
namespace {

TEST(AdamW, DecaysWithoutGradient) {
  const auto weights = one_step(optim::AdamW{.weight_decay = 0.3}, 0.0);
  EXPECT_DOUBLE_EQ(weights[0], 0.5 * (1 - 0.1 * 0.3));
  EXPECT_DOUBLE_EQ(weights[bias], 0.5 * (1 - 0.1 * 0.3));
}

TEST(AdamW, FirstStepIsTheSign) {
  EXPECT_NEAR(one_step(optim::AdamW{.weight_decay = 0}, 3.0)[0], 0.5 - 0.1, 1e-8);
  EXPECT_NEAR(one_step(optim::AdamW{.weight_decay = 0}, -3.0)[0], 0.5 + 0.1, 1e-8);
}

TEST(AdamW, GroupsScaleRateAndDecay) {
  const auto grouping = [](const Entry& entry) {
    return entry.shape.rank > 1 ? optim::Group{.rate = 0.25, .decay = 2} : optim::Group{.decay = 0};
  };
  const auto weights = one_step(optim::AdamW{.weight_decay = 0.3}, 3.0, grouping);
  EXPECT_NEAR(weights[0], 0.5 * (1 - 0.025 * 0.6) - 0.025, 1e-8);
  EXPECT_NEAR(weights[bias], 0.5 - 0.1, 1e-8);
}

TEST(AdamW, CoefficientsCorrectTheBias) {
  const auto c = optim::AdamW{.beta1 = 0.9, .beta2 = 0.99}.coefficients(0.1, 2);
  EXPECT_DOUBLE_EQ(c.correction1, 1 / (1 - 0.81));
  EXPECT_DOUBLE_EQ(c.correction2, 1 / (1 - 0.9801));
  EXPECT_DOUBLE_EQ(c.root_correction2, std::sqrt(1 / (1 - 0.9801)));
}

}  // namespace
}  // namespace tessera::test
