#include "tessera/objectives/mae.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "support/mae.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::test {
namespace {

using objectives::MAE;
using objectives::mae::Mask;
using Counted = StudyMae<true, objectives::mae::CounterBased>;

template <class Scalar>
class MaeParity : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(MaeParity, Scalars);

TYPED_TEST(MaeParity, EightSteps) {
  cpu::Backend<TypeParam> backend(2);
  check_mae(backend);
}

TYPED_TEST(MaeParity, RawPixels) {
  cpu::Backend<TypeParam> backend(2);
  check_raw_mae(backend);
}

// A whole pass of the objective's model: predictions, loss and gradients.
template <class Objective, class Scalar>
struct Pass {
  using Model = typename Objective::Model;
  index images;
  std::vector<int> keep, restore;
  std::vector<Scalar> prediction, gradient;
  double loss = 0;

  Pass(const std::vector<Scalar>& x, const std::vector<float>& noise, const std::vector<Scalar>& weights)
      : images(static_cast<index>(x.size()) / Model::in),
        keep(static_cast<std::size_t>(images * Model::kept)),
        restore(noise.size()),
        prediction(static_cast<std::size_t>(images * Model::tokens * Model::out)),
        gradient(weights.size()) {
    cpu::Backend<Scalar> backend(2);
    run(backend, x, noise, weights);
    backend.arena().commit();
    run(backend, x, noise, weights);
  }

 private:
  void run(cpu::Backend<Scalar>& backend, const std::vector<Scalar>& x, const std::vector<float>& noise,
           const std::vector<Scalar>& weights) {
    using Pixels = Rows<const Scalar, Model::out>;
    std::vector<Scalar> values = weights;
    const auto p = bind<Model>(values.data(), static_cast<Scalar*>(nullptr));
    const auto g = bind<Model>(gradient.data(), static_cast<Scalar*>(nullptr));
    comm::Serial communicator;
    Context<cpu::Backend<Scalar>, comm::Serial> context{backend, communicator};
    const Rows<const Scalar, Model::in> pixels{x.data(), images};
    const Rows<Scalar, Model::out> predicted{prediction.data(), images * Model::tokens};
    const Mask mask{keep.data(), restore.data()};
    const auto frame = context.frame();
    const auto targets = context.template take<Model::out>(images * Model::patches),
               d_prediction = context.template take<Model::out>(predicted.rows);
    mask_by_noise<Model::patches, Model::kept>(backend, noise.data(), images, mask.keep, mask.restore);
    const auto saved = Model::forward(context, p, pixels, mask, predicted);
    patch_targets<Model::Image::channels, Model::Image::size, Model::patch, true>(backend, pixels, targets);
    masked_mse<Model::extra, Model::patches, Model::kept>(backend, Pixels(predicted), Pixels(targets), mask.restore,
                                                          1.0, images * Objective::removed, &loss, d_prediction);
    Model::backward(context, p, g, pixels, mask, saved, Pixels(d_prediction));
  }
};

// Weights of a fixture in their flat buffer.
template <class Objective, class Scalar>
std::vector<Scalar> weights_in(const Fixture& fixture) {
  using Model = typename Objective::Model;
  std::vector<Scalar> weights(static_cast<std::size_t>(Layout<Model>::parameters));
  fixture.load(std::span<const Entry>(Layout<Model>::entries), "before.", weights.data(),
               static_cast<Scalar*>(nullptr));
  return weights;
}

template <class Scalar>
std::vector<float> noise_in(const Fixture& fixture, index count) {
  const auto from = fixture.tensor("noise").values.begin();
  return {from, from + count};
}

void expect_mask(const std::vector<int>& restore, int kept, const Tensor& expected) {
  ASSERT_EQ(restore.size(), expected.values.size());
  for (std::size_t i = 0; i < restore.size(); ++i) EXPECT_EQ(restore[i] >= kept ? 1 : 0, expected.values[i]) << i;
}

// Predictions of patches, of the first `images` images.
template <class Model, class Scalar>
std::vector<Scalar> patches_of(const std::vector<Scalar>& prediction, index images) {
  std::vector<Scalar> patches;
  constexpr index values = index{Model::patches} * Model::out, all = index{Model::tokens} * Model::out;
  for (index image = 0; image < images; ++image) {
    const auto first = prediction.begin() + image * all + Model::extra * Model::out;
    patches.insert(patches.end(), first, first + values);
  }
  return patches;
}

// Another size than the study's, whose decoder has 2 heads.
TYPED_TEST(MaeParity, OneStepOfAnotherSize) {
  using Scalar = TypeParam;
  using Objective = MAE<VisionTransformer<image<24>, patch<6>, 20, 2, 5>, objectives::mae::Decoder<16, 1, 2>, 70>;
  using Model = Objective::Model;
  const Fixture fixture("mae");
  const Pass<Objective, Scalar> pass(fixture.values<Scalar>("x"), fixture.values<float>("noise"),
                                     weights_in<Objective, Scalar>(fixture));
  EXPECT_NEAR(pass.loss, fixture.tensor("loss").values[0], tolerance<Scalar>);
  expect_mask(pass.restore, Model::kept, fixture.tensor("mask"));
  expect_close("pred", patches_of<Model>(pass.prediction, pass.images).data(), fixture.tensor("pred"));
  EXPECT_EQ(expect_entries_close<Scalar>(fixture, Layout<Model>::entries, "grad.", pass.gradient.data(), nullptr),
            tensors_under(fixture, "grad."));
}

// The masks and the first image's predictions of the study's first step.
TYPED_TEST(MaeParity, MaskAndPredictions) {
  using Scalar = TypeParam;
  using Objective = StudyMae<>;
  const Fixture fixture("study_mae"), pictures("study_images");
  const index images = static_cast<index>(fixture.number("batch"));
  std::vector<Scalar> x;
  for (const double u :
       std::span(pictures.tensor("x1").values).first(static_cast<std::size_t>(images) * Objective::Model::in))
    x.push_back(static_cast<Scalar>((u - 128) / 64));
  const Pass<Objective, Scalar> pass(x, noise_in<Scalar>(fixture, images * Objective::patches),
                                     weights_in<Objective, Scalar>(fixture));
  EXPECT_NEAR(pass.loss, fixture.tensor("loss").values[0], tolerance<Scalar>);
  expect_mask(pass.restore, Objective::kept, fixture.tensor("mask"));
  expect_close("pred", patches_of<Objective::Model>(pass.prediction, 1).data(), fixture.tensor("pred"));
}

// Five-point differences of the loss of a step, for some values of every tensor.
TEST(MaeGradient, EqualsDifferences) {
  using Objective = StudyMae<>;
  using Online = OnlineLayout<Objective>;
  const Fixture fixture("study_mae");
  cpu::Backend<double> backend(1);
  StepNoise<cpu::Backend<double>> noise(backend, study_mae_noise(fixture));
  noise.set(fixture, 0);
  Study<Objective, cpu::Backend<double>> run(backend, fixture, optim::Sgd{});
  run.hold_still();
  run.step(0, {});
  const auto gradient = run.gradient();
  double* const weights = run.trainer().networks().online().parameters();
  for (const Entry& entry : Online::entries) {
    if (entry.role != Role::trained) continue;
    double error = 0, magnitude = 1e-2;
    const index step = entry.size() > 2 ? entry.size() / 2 : 1;
    for (index i = entry.offset; i < entry.offset + entry.size(); i += step) {
      constexpr double h = 1e-3;
      const double at = weights[i];
      const auto loss = [&](double shift) {
        weights[i] = at + shift;
        return run.step(0, {});
      };
      const double expected = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
      weights[i] = at;
      error = std::max(error, std::abs(gradient[static_cast<std::size_t>(i)] - expected));
      magnitude = std::max(magnitude, std::abs(expected));
    }
    EXPECT_LE(error / magnitude, 1e-7) << entry.name.view();
  }
}

// With masks drawn for the images of the whole batch, two and three ranks are one.
TEST(MaeRanks, TrainAsOne) {
  check_study_ranks<Counted>("study_mae", optim::Sgd{}, [](const Fixture&, index) { return Counted::Settings{}; });
}

// The masks change with the step, and a run is repeated to the bit, with any number of threads.
TEST(MaeMasks, DependOnSeedAndStepAlone) {
  const Fixture fixture("study_mae");
  const auto losses = [&](int threads) {
    cpu::Backend<double> backend(threads);
    Study<Counted, cpu::Backend<double>> run(backend, fixture, optim::Sgd{});
    run.hold_still();
    std::array<double, 3> all{};
    for (double& loss : all) loss = run.step(0, {});
    return all;
  };
  const auto first = losses(1);
  EXPECT_EQ(first, losses(3));
  EXPECT_NE(first[0], first[1]);
  EXPECT_NE(first[1], first[2]);
}

// docs/method.md, 10.1.
static_assert(MAE<vit::Base<>>::kept == 49 && MAE<vit::Huge<>>::kept == 64 && StudyMae<>::kept == 7);

// Names of MAE's checkpoints, without a prefix for the encoder; initial values and tables of docs/method.md, 10.2.
TEST(MaeTensors, HaveMaesNamesAndInitialValues) {
  using Model = MAE<vit::Base<>>::Model;
  using Kind = Initial::Kind;
  const auto& entries = Layout<Model>::entries;
  const auto initial = [&](std::string_view name) {
    const auto found = std::ranges::find_if(entries, [&](const Entry& entry) { return entry.name.view() == name; });
    EXPECT_NE(found, entries.end()) << name;
    return found == entries.end() ? Initial{} : found->initial;
  };
  const auto expect = [&](std::string_view name, Kind kind, double scale) {
    EXPECT_EQ(initial(name).kind, kind) << name;
    EXPECT_NEAR(initial(name).scale, scale, 1e-12) << name;
  };
  const auto xavier = [](double in, double out) { return std::sqrt(6 / (in + out)); };
  expect("cls_token", Kind::normal, 0.02);
  expect("mask_token", Kind::normal, 0.02);
  expect("pos_embed", Kind::sincos_2d_columns_first, 1);
  expect("decoder_pos_embed", Kind::sincos_2d_columns_first, 1);
  expect("patch_embed.proj.weight", Kind::uniform, xavier(768, 768));
  expect("patch_embed.proj.bias", Kind::uniform, 1 / std::sqrt(768.0));
  expect("blocks.11.attn.qkv.weight", Kind::uniform, xavier(768, 3 * 768));
  expect("blocks.11.attn.qkv.bias", Kind::constant, 0);
  expect("blocks.0.attn.proj.weight", Kind::uniform, xavier(768, 768));
  expect("blocks.0.mlp.fc1.weight", Kind::uniform, xavier(768, 4 * 768));
  expect("norm.weight", Kind::constant, 1);
  expect("decoder_embed.weight", Kind::uniform, xavier(768, 512));
  expect("decoder_embed.bias", Kind::constant, 0);
  expect("decoder_blocks.7.attn.qkv.weight", Kind::uniform, xavier(512, 3 * 512));
  expect("decoder_blocks.7.mlp.fc2.bias", Kind::constant, 0);
  expect("decoder_norm.bias", Kind::constant, 0);
  expect("decoder_pred.weight", Kind::uniform, xavier(512, 768));
  expect("decoder_pred.bias", Kind::constant, 0);
}

// docs/method.md, 10.4; tables count.
TEST(MaeTensors, AreAsManyAsTheTableSays) {
  EXPECT_EQ(Layout<MAE<vit::Base<>>::Model>::parameter_count, 85798656 + 26109184);
  EXPECT_EQ(Layout<MAE<vit::Huge<>>::Model>::parameter_count, 630764800 + 26309708);
}

TEST(MaeGroups, LeaveVectorsWithoutDecay) {
  const auto grouping = StudyMae<>::groups({});
  for (const Entry& entry : OnlineLayout<StudyMae<>>::entries) {
    const bool vector = entry.name.view().ends_with("bias") || entry.name.view().find("norm") != std::string_view::npos;
    EXPECT_EQ(grouping(entry), (optim::Group{.decay = vector ? 0.0 : 1.0})) << entry.name.view();
  }
}

TEST(Mae, HasThePapersDefaults) {
  Recipe recipe;
  StudyMae<>::defaults(recipe);
  EXPECT_EQ(recipe.lr, 1.5e-4);
  EXPECT_EQ(recipe.weight_decay, 0.05);
  EXPECT_EQ(std::get<optim::AdamW>(recipe.make_optimizer()).beta2, 0.95);
  EXPECT_EQ(recipe.identity(1).at("beta2"), "0.95");
  EXPECT_EQ(recipe.epochs, 800);
  const auto view = StudyMae<>::augmentation()[0];
  EXPECT_EQ(view.crop_min, 0.2);
  EXPECT_EQ(view.filter, data::Filter::bicubic);
  EXPECT_EQ(view.jitter + view.grayscale + view.blur + view.solarize, 0);
}

// Its beta2 is for optimizers that have one, and only where none is given.
TEST(Mae, LetsOtherOptimizersBe) {
  Recipe recipe;
  StudyMae<>::defaults(recipe);
  for (const char* optimizer : {"sgd", "lars"}) {
    recipe.optimizer = optimizer;
    EXPECT_NO_THROW(static_cast<void>(recipe.make_optimizer())) << optimizer;
    EXPECT_EQ(recipe.identity(1).at("beta2"), "") << optimizer;
  }
  recipe.optimizer = "lamb";
  EXPECT_EQ(std::get<optim::Lamb>(recipe.make_optimizer()).beta2, 0.95);
  recipe.beta2 = 0.98;
  EXPECT_EQ(std::get<optim::Lamb>(recipe.make_optimizer()).beta2, 0.98);
  recipe.optimizer = "sgd";
  EXPECT_THROW(static_cast<void>(recipe.make_optimizer()), Error);
}

// Evaluation sees the encoder's own features, of all patches.
TEST(Mae, EncoderIsThatOfTheModel) {
  using Model = StudyMae<>::Model;
  const Fixture fixture("study_mae");
  cpu::Backend<double> backend(1);
  Study<Counted, cpu::Backend<double>> run(backend, fixture, optim::Sgd{});
  const auto online = run.trainer().networks().online().bind();
  EXPECT_EQ(&Counted::encoder(online), &std::get<0>(online).encoder);
  EXPECT_EQ(Layout<Model>::entries[0].name.view(), "cls_token");
}

TEST(MaeBf16, TrainsAsDouble) {
  cpu::Backend<double> host(1);
  cpu::Backend<bf16> low(2);
  const auto expected = mae_losses(host), in_bf16 = mae_losses(low);
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_NEAR(in_bf16[t], expected[t], 3e-2) << t;
}

}  // namespace
}  // namespace tessera::test
