#include "tessera/objectives/moco_v3.hpp"

#include <gtest/gtest.h>

#include "support/noisy_views.hpp"
#include "support/parity.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

// In double: rounding in float grows with every step of so large a rate.
template <class Rule>
void check_trajectory_in_double(const char* name, Rule rule) {
  cpu::Backend<double> backend(2);
  check_trajectory(backend, name, rule, 1e-7);
}

TEST(MoCoV3Trajectory, WithAdamW) {
  check_trajectory_in_double("moco_trajectory_adamw", optim::AdamW{.weight_decay = 0.1});
}
TEST(MoCoV3Trajectory, WithLars) {
  check_trajectory_in_double("moco_trajectory_lars", optim::Lars{.weight_decay = 1e-4});
}
TEST(MoCoV3Trajectory, WithLamb) {
  check_trajectory_in_double("moco_trajectory_lamb", optim::Lamb{.weight_decay = 0.05});
}

template <class Scalar>
class MoCoV3Parity : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(MoCoV3Parity, Scalars);

// One of the loss's two terms: predictions of one view against keys of the other, which carry no gradient.
TYPED_TEST(MoCoV3Parity, Contrast) {
  using Scalar = TypeParam;
  using Features = Rows<Scalar, 16>;
  using Input = Rows<const Scalar, 16>;
  const Fixture fixture("objectives");
  auto q = fixture.values<Scalar>("info_nce.a"), k = fixture.values<Scalar>("info_nce.b");
  const index rows = fixture.tensor("info_nce.a").shape[0];
  std::vector<Scalar> gradient(q.size()), inverse_q(static_cast<std::size_t>(rows)), inverse_k(inverse_q);
  cpu::Backend<Scalar> backend(1);
  double loss = 0;
  const double temperature = fixture.number("info_nce_tau");
  const auto contrast = [&] {
    normalize_rows(backend, Input{q.data(), rows}, Features{q.data(), rows}, Rows<Scalar, 1>{inverse_q.data(), rows});
    normalize_rows(backend, Input{k.data(), rows}, Features{k.data(), rows}, Rows<Scalar, 1>{inverse_k.data(), rows});
    info_nce(backend, Input{q.data(), rows}, Input{k.data(), rows}, InfoNce{2, true}, &temperature, 0, rows, &loss,
             Features{gradient.data(), rows});
    normalize_rows_backward(backend, Input{q.data(), rows}, Rows<const Scalar, 1>{inverse_q.data(), rows},
                            Input{gradient.data(), rows}, Features{gradient.data(), rows});
  };
  contrast();
  backend.arena().commit();
  contrast();
  EXPECT_NEAR(loss, fixture.tensor("info_nce.loss").values[0], tolerance<Scalar>);
  expect_close("info_nce.grad_a", gradient.data(), fixture.tensor("info_nce.grad_a"));
}

TYPED_TEST(MoCoV3Parity, OneStep) {
  cpu::Backend<TypeParam> backend(2);
  check_step<Learned>(backend, "moco_step");
}

TYPED_TEST(MoCoV3Parity, OneStepWithFrozenPatches) {
  cpu::Backend<TypeParam> backend(2);
  check_step<Frozen>(backend, "moco_step_frozen_patch");
}

// What several ranks compute together is what one rank computes on all rows: gradients of the mean loss, statistics
// over all rows, and each rank's loss on its rows against the keys of all.
template <class Scalar>
void check_ranks(const char* name) {
  using Backend = cpu::Backend<Scalar>;
  const Fixture fixture(name);
  Backend backend(2);
  const index batch = fixture.tensor("x1").shape[0];
  Session<Frozen, Backend> run(backend, fixture, batch, optim::AdamW{});
  const double loss = run.step(0, 0, fixture.number("m"));
  double mean = 0;
  const auto& losses = fixture.tensor("loss_per_rank").values;
  for (const double one : losses) mean += one / static_cast<double>(losses.size());
  EXPECT_NEAR(loss, mean, tolerance<Scalar>);
  run.expect_gradient();
  run.expect_statistics();
}

TYPED_TEST(MoCoV3Parity, TwoRanksInOne) {
  check_ranks<TypeParam>("moco_ranks_2");
}
TYPED_TEST(MoCoV3Parity, ThreeRanksInOne) {
  check_ranks<TypeParam>("moco_ranks_3");
}

TEST(MoCoV3Bf16, HasTheLossAndTheGradientOfFloat) {
  check_bf16_against_float<cpu::Backend<bf16>>();
}
TEST(MoCoV3Bf16, StaysCloseToTheReferencesLoss) {
  check_bf16_against_the_reference<cpu::Backend<bf16>>(5e-2);
}

}  // namespace
}  // namespace tessera::test
