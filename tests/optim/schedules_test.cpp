#include "tessera/optim/schedules.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"
#include "tessera/objectives/settings.hpp"

namespace tessera::test {
namespace {

TEST(Schedules, ReachTheirEnds) {
  const double peak = 1.5e-4 * 4096 / 256;
  EXPECT_EQ(optim::learning_rate(peak, 0, 40, 300), 0);
  EXPECT_NEAR(optim::learning_rate(peak, 20, 40, 300), 1.2e-3, 1e-15);
  EXPECT_NEAR(optim::learning_rate(peak, 40, 40, 300), 2.4e-3, 1e-15);
  EXPECT_NEAR(optim::learning_rate(peak, 300, 40, 300), 0, 1e-15);
}

// 6 epochs of 4 steps, 2 of them warm-up.
TEST(Schedules, EqualTheOracleAtEveryStep) {
  const Fixture fixture("study_schedules");
  const auto expect = [&](const char* name, const auto& schedule) {
    const std::vector<double>& values = fixture.tensor(name).values;
    ASSERT_EQ(values.size(), 24u) << name;
    for (std::size_t step = 0; step < values.size(); ++step)
      EXPECT_NEAR(schedule(static_cast<double>(step) / 4), values[step], 1e-15) << name << ", step " << step;
  };
  expect("moco.lr", [](double epoch) { return optim::learning_rate(1.2, epoch, 2, 6); });
  expect("moco.m", [](double epoch) { return cosine(0.99, 1).at(epoch, 6); });
}

}  // namespace
}  // namespace tessera::test
