#include "tessera/ssl/moco_v3.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit.hpp"
#include "tessera/optim/schedules.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::test {
namespace {

// The reference's sizes: 24 x 24 images, patch 6, width 20, 2 blocks, 5 heads, heads of 36 hidden and 16 output
// features.
template <class Embed>
using ReferenceMethod = ssl::MoCoV3<VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<Embed>>,
                                    ssl::Projector<36, 16>, ssl::Predictor<36, 16>>;
using Learned = ReferenceMethod<embed::Patches>;
using Frozen = ReferenceMethod<embed::FrozenPatches>;

template <class Method, class Scalar, class Optimizer>
struct Session {
  using Backend = cpu::Backend<Scalar>;
  using ThisTrainer = Trainer<Method, Optimizer, Backend, comm::Serial>;

  Session(const Fixture& from, index batch, Optimizer optimizer = {})
      : fixture(from), trainer(backend, communicator, optimizer, batch, 0) {
    const auto state = trainer.state();
    fixture.load(student(), "before.", state.student, state.student_statistics);
    fixture.load(teacher(), "before.", state.teacher, state.teacher_statistics);
  }

  static std::span<const Entry> student() { return ThisTrainer::Student::entries; }
  static std::span<const Entry> teacher() { return ThisTrainer::Teacher::entries; }

  // The stacked views x1, x2 of step t; both hold `batch` images for every step.
  std::vector<Scalar> images(index t = 0) const {
    const std::size_t count = static_cast<std::size_t>(trainer.batch() * Method::in);
    std::vector<Scalar> stacked;
    for (const char* view : {"x1", "x2"}) {
      const auto values = fixture.template values<Scalar>(view);
      const auto first = values.begin() + t * static_cast<index>(count);
      stacked.insert(stacked.end(), first, first + static_cast<index>(count));
    }
    return stacked;
  }

  double step(index t, double learning_rate, double momentum) {
    const auto x = images(t);
    return trainer.step({x.data(), 2 * trainer.batch()}, {learning_rate, {fixture.number("tau"), momentum}, false});
  }

  void expect_after(double bound) {
    const auto state = trainer.state();
    expect_entries_close<Scalar>(fixture, student(), "after.", state.student, state.student_statistics, bound);
    expect_entries_close<Scalar>(fixture, teacher(), "after.", state.teacher, state.teacher_statistics, bound);
  }

  const Fixture& fixture;
  Backend backend{2};
  comm::Serial communicator;
  ThisTrainer trainer;
};

template <class Scalar>
class MoCoV3Parity : public testing::Test {
 protected:
  template <class Method>
  void check_step(const char* name) {
    const Fixture fixture(name);
    Session<Method, Scalar, optim::AdamW> run(fixture, fixture.tensor("x1").shape[0],
                                              {.weight_decay = fixture.number("weight_decay")});
    EXPECT_NEAR(run.step(0, fixture.number("lr"), fixture.number("m")), fixture.tensor("loss").values[0],
                tolerance<Scalar>);
    const auto gradient = run.trainer.state().gradient;
    EXPECT_GT(expect_entries_close<Scalar>(fixture, run.student(), "grad.", gradient, nullptr), 30);
    // Where a gradient is zero in exact arithmetic, AdamW's first step divides the rounding in it (a few 1e-15, in the
    // reference as well as here) by epsilon = 1e-8: lr * 4e-7 of difference mean nothing. In float all of it would.
    if constexpr (std::is_same_v<Scalar, double>) run.expect_after(1e-9 + fixture.number("lr") * 4e-7);
  }
};

// Eight steps with the per-iteration schedules, in double: rounding in float grows with every step of so large a rate.
template <class Optimizer>
void check_trajectory(const char* name, Optimizer optimizer) {
  const Fixture fixture(name);
  Session<Frozen, double, Optimizer> run(fixture, fixture.tensor("x1").shape[1], optimizer);
  const double warmup = fixture.number("warmup_epochs"), epochs = fixture.number("epochs");
  for (index t = 0; t < static_cast<index>(fixture.number("steps")); ++t) {
    const auto at = static_cast<std::size_t>(t);
    const double epoch = static_cast<double>(t) / fixture.number("steps_per_epoch");
    const double lr = optim::learning_rate(fixture.number("base_lr"), epoch, warmup, epochs);
    const double m = optim::momentum_coefficient(fixture.number("momentum"), epoch, epochs);
    EXPECT_NEAR(lr, fixture.tensor("lr").values[at], 1e-15);
    EXPECT_NEAR(m, fixture.tensor("m").values[at], 1e-15);
    EXPECT_NEAR(run.step(t, lr, m), fixture.tensor("loss").values[at], 1e-7) << "step " << t;
  }
  run.expect_after(1e-7);
}

TEST(MoCoV3Trajectory, WithAdamW) {
  check_trajectory("moco_trajectory_adamw", optim::AdamW{.weight_decay = 0.1});
}
TEST(MoCoV3Trajectory, WithLars) {
  check_trajectory("moco_trajectory_lars", optim::Lars{.weight_decay = 1e-4});
}
TEST(MoCoV3Trajectory, WithLamb) {
  check_trajectory("moco_trajectory_lamb", optim::Lamb{.weight_decay = 0.05});
}

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
    contrastive_loss(backend, Input{q.data(), rows}, Input{k.data(), rows}, &temperature, 0, rows, &loss,
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
  this->template check_step<Learned>("moco_step");
}

TYPED_TEST(MoCoV3Parity, OneStepWithFrozenPatches) {
  this->template check_step<Frozen>("moco_step_frozen_patch");
}

// What several ranks compute together is what one rank computes on all rows: gradients of the mean loss, statistics
// over all rows, and each rank's loss on its rows against the keys of all.
template <class Scalar>
void check_ranks(const char* name) {
  const Fixture fixture(name);
  const index batch = fixture.tensor("x1").shape[0];
  Session<Frozen, Scalar, optim::AdamW> run(fixture, batch);
  const auto x = run.images();
  Context<cpu::Backend<Scalar>, comm::Serial> context{run.backend, run.communicator};
  const auto frame = context.frame();
  const Frozen::Coefficients coefficients{fixture.number("tau"), fixture.number("m")};
  double loss = 0;
  Frozen::step(context, run.trainer.state(), Rows<const Scalar, Frozen::in>{x.data(), 2 * batch}, &coefficients, &loss);
  double mean = 0;
  const auto& losses = fixture.tensor("loss_per_rank").values;
  for (const double one : losses) mean += one / static_cast<double>(losses.size());
  EXPECT_NEAR(loss, mean, tolerance<Scalar>);
  expect_entries_close<Scalar>(fixture, run.student(), "grad.", run.trainer.state().gradient, nullptr);
  expect_entries_close<Scalar>(fixture, run.student(), "after.", nullptr, run.trainer.state().student_statistics);
  expect_entries_close<Scalar>(fixture, run.teacher(), "after.", nullptr, run.trainer.state().teacher_statistics);
}

TYPED_TEST(MoCoV3Parity, TwoRanksInOne) {
  check_ranks<TypeParam>("moco_ranks_2");
}
TYPED_TEST(MoCoV3Parity, ThreeRanksInOne) {
  check_ranks<TypeParam>("moco_ranks_3");
}

}  // namespace
}  // namespace tessera::test
