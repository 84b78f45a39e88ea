#include "tessera/objectives/supervised.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "support/supervised.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

constexpr int classes = 7, size = 15;
using ClassToken = objectives::Supervised<StudyEncoder<position::Learned>, classes, GivenDraws>;
using MeanPatches =
    objectives::Supervised<StudyEncoder<position::Learned, pooling::MeanPatchesNorm>, classes, GivenDraws>;

template <class Scalar>
class SupervisedParity : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(SupervisedParity, Scalars);

TYPED_TEST(SupervisedParity, EightSteps) {
  cpu::Backend<TypeParam> backend(2);
  check_supervised<ClassToken>(backend, "study_supervised");
  check_supervised<MeanPatches>(backend, "study_supervised_gap");
}

TYPED_TEST(SupervisedParity, ClippedGradient) {
  cpu::Backend<TypeParam> backend(2);
  check_clipped<ClassToken>(backend, "study_supervised");
  check_clipped<MeanPatches>(backend, "study_supervised_gap");
}

// The image u of the fixtures as a network reads it.
template <class Scalar>
std::vector<Scalar> pixels(const Fixture& images, index batch) {
  const Tensor& all = images.tensor("x1");
  const index count = static_cast<index>(all.values.size()) / all.shape[0];
  std::vector<Scalar> values;
  for (index i = 0; i < count; ++i)
    values.push_back(static_cast<Scalar>((all.values[static_cast<std::size_t>(batch * count + i)] - 128) / 64));
  return values;
}

// Logits at evaluation, and the loss with smoothed labels of them.
template <class Objective, class Scalar>
void check_evaluation(const char* name) {
  using Backend = cpu::Backend<Scalar>;
  using Logits = Rows<Scalar, classes>;
  const Fixture fixture(name), images("study_images");
  Backend backend(2);
  Study<Objective, Backend> run(backend, fixture, optim::AdamW{});
  const auto x = pixels<Scalar>(images, 0);
  const index batch = run.trainer().batch();
  std::vector<Scalar> logits(static_cast<std::size_t>(batch * classes));
  comm::Serial alone;
  Context<Backend, comm::Serial> context{backend, alone, Mode::evaluate};
  Objective::classify(context, std::get<0>(run.trainer().networks().online().bind()),
                      Rows<const Scalar, Objective::Encoder::in>{x.data(), batch}, Logits{logits.data(), batch});
  expect_close("logits_eval", logits.data(), fixture.tensor("logits_eval"));
  const auto labels = fixture.template values<int>("labels");
  const double smoothing = fixture.number("smoothing");
  double loss = 0;
  cross_entropy(backend, Rows<const Scalar, classes>{logits.data(), batch}, labels.data(), &smoothing, nullptr, batch,
                &loss, Logits{logits.data(), batch});
  EXPECT_NEAR(loss, fixture.tensor("smoothed_loss_eval").values[0], tolerance<Scalar>);
}

TYPED_TEST(SupervisedParity, Evaluation) {
  check_evaluation<ClassToken, TypeParam>("study_supervised");
  check_evaluation<MeanPatches, TypeParam>("study_supervised_gap");
}

// The targets, read off the gradient at equal logits, which is (1 / classes - target) / batch.
TYPED_TEST(SupervisedParity, Targets) {
  using Scalar = TypeParam;
  const Fixture fixture("study_supervised");
  cpu::Backend<Scalar> backend(1);
  const auto labels = fixture.template values<int>("labels");
  const double smoothing = fixture.number("smoothing");
  for (const index t : {0, 1}) {
    const Tensor& expected = fixture.tensor("target" + std::to_string(t));
    const index batch = expected.shape[0];
    const Mixing mixing = mixing_in(fixture, t, size);
    std::vector<Scalar> values(expected.values.size(), Scalar(1));
    double loss = 0;
    const auto pass = [&] {
      cross_entropy(backend, Rows<const Scalar, classes>{values.data(), batch}, labels.data() + t * batch, &smoothing,
                    &mixing.lambda, batch, &loss, Rows<Scalar, classes>{values.data(), batch});
    };
    backend.arena().reset();
    pass();
    backend.arena().commit();
    pass();
    for (Scalar& value : values) value = Scalar(1) / classes - value * static_cast<Scalar>(batch);
    expect_close("target", values.data(), expected);
  }
}

TYPED_TEST(SupervisedParity, MixedImages) {
  using Scalar = TypeParam;
  constexpr int values = 3 * size * size;
  const Fixture fixture("study_supervised"), images("study_images");
  cpu::Backend<Scalar> backend(1);
  backend.arena().commit();
  const auto x = pixels<Scalar>(images, 1);
  std::vector<Scalar> mixed(x.size());
  const Mixing mixing = mixing_in(fixture, 1, size);
  const index batch = static_cast<index>(x.size()) / values;
  mix_images<3, size>(backend, &mixing, Rows<const Scalar, values>{x.data(), batch},
                      Rows<Scalar, values>{mixed.data(), batch});
  mixed.resize(fixture.tensor("mixed1").values.size());
  expect_close("mixed1", mixed.data(), fixture.tensor("mixed1"), 0);
}

// docs/method.md, 4.5: the rate of a tensor of layer l of L is lr factor^(L + 1 - l).
TEST(SupervisedGroups, HaveTheRatesOfTheirLayers) {
  ClassToken::Settings settings;
  settings.layer_decay = 0.65;
  const auto grouping = ClassToken::groups(settings);
  for (const Entry& entry : OnlineLayout<ClassToken>::entries) {
    const std::string_view name = entry.name.view();
    const optim::Group group = grouping(entry);
    const int layers = name.starts_with("head") || name.starts_with("norm") ? 0
                       : name.starts_with("blocks.1.")                      ? 1
                       : name.starts_with("blocks.0.")                      ? 2
                                                                            : 3;
    EXPECT_DOUBLE_EQ(group.rate, std::pow(0.65, layers)) << name;
    EXPECT_EQ(group.decay, entry.shape.rank > 1 && name != "cls_token" && name != "pos_embed" ? 1 : 0) << name;
    EXPECT_FALSE(group.frozen) << name;
  }
}

// Names of timm's checkpoints: no prefix.
TEST(SupervisedNames, AreTimms) {
  const auto& entries = OnlineLayout<ClassToken>::entries;
  EXPECT_EQ(entries[0].name.view(), "cls_token");
  EXPECT_EQ(entries[entries.size() - 2].name.view(), "head.weight");
  EXPECT_EQ(entries.back().name.view(), "head.bias");
  EXPECT_EQ(entries.back().initial.scale, 0);
  EXPECT_EQ(entries[entries.size() - 2].initial.scale, 0.02);
}

// Five-point differences of the loss of a step with mixing, smoothing and drop path, for some values of every tensor.
TEST(SupervisedGradient, EqualsDifferences) {
  using Online = OnlineLayout<ClassToken>;
  const Fixture fixture("study_supervised");
  cpu::Backend<double> backend(1);
  StepDraws<cpu::Backend<double>> draws(backend, fixture);
  draws.set(fixture, 0, mixing_in(fixture, 1, size));
  Study<ClassToken, cpu::Backend<double>> run(backend, fixture, optim::Sgd{});
  const auto settings = settings_in<ClassToken>(fixture);
  run.hold_still();
  run.step(0, settings);
  const auto gradient = run.gradient();
  double* const weights = run.trainer().networks().online().parameters();
  for (const Entry& entry : Online::entries) {
    double error = 0, magnitude = 1e-2;
    const index step = entry.size() > 2 ? entry.size() / 2 : 1;
    for (index i = entry.offset; i < entry.offset + entry.size(); i += step) {
      constexpr double h = 1e-3;
      const double at = weights[i];
      const auto loss = [&](double shift) {
        weights[i] = at + shift;
        return run.step(0, settings);
      };
      const double expected = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
      weights[i] = at;
      error = std::max(error, std::abs(gradient[static_cast<std::size_t>(i)] - expected));
      magnitude = std::max(magnitude, std::abs(expected));
    }
    EXPECT_LE(error / magnitude, 1e-7) << entry.name.view();
  }
}

// With drop path drawn for the images of the whole batch, and without mixing, two and three ranks are one.
TEST(SupervisedRanks, TrainAsOne) {
  using Counted = objectives::Supervised<StudyEncoder<position::Learned>, classes>;
  const auto settings_of = [](const Fixture& fixture, index) {
    auto settings = settings_in<Counted>(fixture);
    settings.mixup = settings.cutmix = 0;
    return settings;
  };
  check_study_ranks<Counted>("study_supervised", optim::Sgd{}, settings_of);
}

// The draws change with the step, and a run is repeated to the bit, with any number of threads.
TEST(SupervisedDraws, DependOnSeedAndStepAlone) {
  using Counted = objectives::Supervised<StudyEncoder<position::Learned>, classes>;
  const Fixture fixture("study_supervised");
  const auto losses = [&](int threads) {
    cpu::Backend<double> backend(threads);
    Study<Counted, cpu::Backend<double>> run(backend, fixture, optim::Sgd{});
    run.hold_still();
    std::array<double, 4> all{};
    for (double& loss : all) loss = run.step(0, settings_in<Counted>(fixture));
    return all;
  };
  const auto first = losses(1);
  EXPECT_EQ(first, losses(3));
  EXPECT_NE(first[0], first[1]);
  EXPECT_NE(first[1], first[2]);
}

TEST(SupervisedBf16, TrainsAsDouble) {
  cpu::Backend<double> host(1);
  cpu::Backend<bf16> low(2);
  const auto expected = supervised_losses(host), in_bf16 = supervised_losses(low);
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_NEAR(in_bf16[t], expected[t], 0.1) << t;
}

}  // namespace
}  // namespace tessera::test
