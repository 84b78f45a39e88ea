#include "tessera/objectives/simclr.hpp"

#include <gtest/gtest.h>

#include "support/study.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

using Projector = heads::Mlp<3, study_hidden, study_out>;
using Joint = objectives::SimCLR<StudyEncoder<>, Projector>;
using Separate = objectives::SimCLR<StudyEncoder<>, Projector, objectives::NormBatch::each_view>;
constexpr const char* fixture_name = "study_simclr";
constexpr optim::AdamW adamw{.weight_decay = 0.1};

const auto settings = [](const Fixture& fixture, index) { return Joint::Settings{fixture.number("tau")}; };

template <class Scalar>
class SimCLRParity : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(SimCLRParity, Scalars);

TYPED_TEST(SimCLRParity, EightSteps) {
  cpu::Backend<TypeParam> backend(2);
  check_study<Joint>(backend, fixture_name, adamw, settings);
}

TYPED_TEST(SimCLRParity, ViewsNormalizedByThemselves) {
  cpu::Backend<TypeParam> backend(2);
  const Fixture fixture(fixture_name);
  Study<Separate, cpu::Backend<TypeParam>> run(backend, fixture, adamw);
  EXPECT_NEAR(run.step(0, {fixture.number("tau")}), fixture.tensor("separate.loss").values[0], tolerance<TypeParam>);
  expect_digests(fixture, "separate.grad_digest", run.gradient_digests(), tolerance<TypeParam>);
}

// The projections that the first step compares.
TYPED_TEST(SimCLRParity, Features) {
  using Scalar = TypeParam;
  using Branch = Joint::Branch;
  cpu::Backend<Scalar> backend(2);
  const Fixture fixture(fixture_name), pictures("study_images");
  Study<Joint, cpu::Backend<Scalar>> run(backend, fixture, adamw);
  const index rows = 2 * run.trainer().batch();
  const auto first = pictures.tensor("x1").values.begin(), second = pictures.tensor("x2").values.begin();
  std::vector<Scalar> x, z(static_cast<std::size_t>(rows * Branch::out));
  for (const auto from : {first, second})
    std::transform(from, from + rows / 2 * Branch::in, std::back_inserter(x),
                   [](double u) { return static_cast<Scalar>((u - 128) / 64); });
  comm::Serial communicator;
  const auto pass = [&] {
    Context<cpu::Backend<Scalar>, comm::Serial> context{backend, communicator};
    const auto frame = context.frame();
    Branch::forward(context, std::get<0>(run.trainer().networks().online().bind()),
                    Rows<const Scalar, Branch::in>{x.data(), rows}, Rows<Scalar, Branch::out>{z.data(), rows});
  };
  pass();
  expect_close("z1", z.data(), fixture.tensor("z1"));
  expect_close("z2", z.data() + rows / 2 * Branch::out, fixture.tensor("z2"));
}

TEST(SimCLRRanks, TrainAsOne) {
  check_study_ranks<Joint>(fixture_name, optim::Sgd{}, settings);
  check_study_ranks<Separate>(fixture_name, optim::Sgd{},
                              [](const Fixture& fixture, index) { return Separate::Settings{fixture.number("tau")}; });
}

TEST(SimCLR, HasTheRateOfMoCoV3sPaper) {
  struct {
    double lr = 0, weight_decay = 0;
  } recipe;
  Joint::defaults(recipe);
  EXPECT_EQ(recipe.lr, 2e-4);
  EXPECT_EQ(recipe.weight_decay, 0.1);
}

TEST(SimCLRBf16, StaysCloseToTheReferencesLoss) {
  const Fixture fixture(fixture_name);
  cpu::Backend<bf16> backend(2);
  Study<Joint, cpu::Backend<bf16>> run(backend, fixture, adamw);
  EXPECT_NEAR(run.step(0, {fixture.number("tau")}), fixture.tensor("loss").values[0], 3e-2);
}

}  // namespace
}  // namespace tessera::test
