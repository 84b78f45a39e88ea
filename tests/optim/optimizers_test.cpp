#include "tessera/optim/optimizers.hpp"

#include <gtest/gtest.h>

#include "tessera/cpu/cpu.hpp"
#include "tessera/nn/linear.hpp"
#include "tessera/optim/schedules.hpp"

namespace tessera::test {
namespace {

TEST(Schedules, EqualTheSpecification) {  // docs/method.md, 4.6
  const double peak = 1.5e-4 * 4096 / 256;
  EXPECT_EQ(optim::learning_rate(peak, 0, 40, 300), 0);
  EXPECT_NEAR(optim::learning_rate(peak, 20, 40, 300), 1.2e-3, 1e-15);
  EXPECT_NEAR(optim::learning_rate(peak, 40, 40, 300), 2.4e-3, 1e-15);
  EXPECT_NEAR(optim::learning_rate(peak, 300, 40, 300), 0, 1e-15);
  EXPECT_EQ(optim::momentum_coefficient(0.99, 0, 300), 0.99);
  EXPECT_NEAR(optim::momentum_coefficient(0.99, 300, 300), 1, 1e-15);
}

using Layer = nn::Linear<3, 2>;
constexpr index bias = entry_alignment;  // the weight comes first

template <class Optimizer>
std::vector<double> one_step(Optimizer optimizer, double gradient) {
  cpu::Backend<double, cpu::EigenMatmul> backend(1);
  static_cast<void>(backend.arena().take<double>(1));
  backend.arena().commit();
  const auto count = static_cast<std::size_t>(Layout<Layer>::parameters);
  std::vector<double> weights(count, 0.5), gradients(count, gradient);
  std::array<std::vector<double>, Optimizer::states> state;
  const auto coefficients = optimizer.coefficients(0.1, 1);
  const double blocked = 0;
  const Part part{0, Layout<Layer>::parameters, 0};
  optim::Update<double, typename Optimizer::Coefficients, Optimizer::states> update{
      Layout<Layer>::entries, {&part, 1}, &coefficients, &blocked, gradients.data(), weights.data(), {}};
  for (std::size_t i = 0; i < state.size(); ++i) {
    state[i].assign(count, 0);
    update.state[i] = state[i].data();
  }
  optimizer.step(backend, update);
  return weights;
}

TEST(AdamW, DecaysWithoutGradient) {  // docs/method.md, 4.1
  const auto weights = one_step(optim::AdamW{.weight_decay = 0.3}, 0.0);
  EXPECT_DOUBLE_EQ(weights[0], 0.5 * (1 - 0.1 * 0.3));
  EXPECT_DOUBLE_EQ(weights[bias], 0.5 * (1 - 0.1 * 0.3));
}

TEST(Lars, LeavesBiasesToPlainMomentum) {  // docs/method.md, 4.3
  const auto weights = one_step(optim::Lars{.weight_decay = 0.3}, 2.0);
  EXPECT_DOUBLE_EQ(weights[bias], 0.5 - 0.1 * 2.0);
  EXPECT_NEAR(weights[0], 0.5 - 0.1 * 0.001 * 0.5, 1e-12);  // d / |d| = 1 / sqrt 6, |p| = 0.5 sqrt 6
}

TEST(Lamb, ScalesBySizeOfTheTensor) {
  const auto weights = one_step(optim::Lamb{.weight_decay = 0}, 2.0);
  EXPECT_NEAR(weights[0], 0.5 - 0.1 * 0.5, 1e-6);
}

TEST(Sgd, FirstStepIsTheGradient) {
  EXPECT_DOUBLE_EQ(one_step(optim::Sgd{.weight_decay = 0.5}, 2.0)[0], 0.5 - 0.1 * (2.0 + 0.5 * 0.5));
}

TEST(MovingAverage, EndsAreExact) {  // docs/method.md, 7.3
  cpu::Backend<double, cpu::EigenMatmul> backend(1);
  static_cast<void>(backend.arena().take<double>(1));
  backend.arena().commit();
  const std::vector<double> student{1, 2, 3};
  std::vector<double> teacher{7, 8, 9};
  const double keep = 1, replace = 0;
  moving_average(backend, 3, &keep, student.data(), teacher.data());
  EXPECT_EQ(teacher, (std::vector<double>{7, 8, 9}));
  moving_average(backend, 3, &replace, student.data(), teacher.data());
  EXPECT_EQ(teacher, student);
}

}  // namespace
}  // namespace tessera::test
