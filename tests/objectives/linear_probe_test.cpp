#include "tessera/objectives/linear_probe.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "support/cross_entropy.hpp"
#include "support/probe.hpp"
#include "support/study.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/eval/linear_probe.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

using Encoder = StudyEncoder<>;
constexpr int classes = 7, classifiers = 3, steps = 4;
constexpr index batch = 6, all_rows = steps * batch;
using objectives::ProbeNorm;
template <ProbeNorm norm>
using Probe = objectives::LinearProbe<Encoder, classes, classifiers, norm>;

// The images of batch t of study_images, or of all batches.
template <class Scalar>
std::vector<Scalar> pictures(index first, index count) {
  const Fixture images("study_images");
  const auto from = images.tensor("x1").values.begin() + first * Encoder::in;
  std::vector<Scalar> pixels;
  std::transform(from, from + count * Encoder::in, std::back_inserter(pixels),
                 [](double u) { return static_cast<Scalar>((u - 128) / 64); });
  return pixels;
}

// What the objective leaves: the losses of each classifier in each step, and the classifiers.
template <class Scalar>
struct Left {
  std::vector<double> sums;                 // that a step returns
  std::vector<std::vector<Scalar>> losses;  // by step
  std::vector<Scalar> weights;              // all trained tensors
  std::vector<Scalar> encoder_before, encoder_after, features, start;
};

template <ProbeNorm norm, class Scalar, class Rule, class Communicator>
Left<Scalar> run_objective(Rule rule, double rate, Communicator& communicator) {
  using Objective = Probe<norm>;
  using Backend = cpu::Backend<Scalar>;
  Backend backend(1);
  const index share = batch / communicator.size();
  TrainerOn<Objective, Backend, Communicator> trainer(backend, communicator, rule,
                                                      {.batch = share, .seed = 5, .groups = Objective::groups({})});
  Left<Scalar> left;
  left.encoder_before = frozen_of(trainer);
  left.start = weights_of(trainer);
  const auto labels = random_labels(all_rows, classes);
  for (index t = 0; t < steps; ++t) {
    const index first = t * batch + communicator.rank() * share;
    const auto pixels = pictures<Scalar>(first, share);
    std::vector<Scalar> features(static_cast<std::size_t>(share * Encoder::out));
    trainer.encode({pixels.data(), share}, {features.data(), share});
    left.features.insert(left.features.end(), features.begin(), features.end());
    auto one = batch_of<Objective>(pixels.data(), share);
    one.labels = labels.data() + first;
    left.sums.push_back(trainer.step(one, {.learning_rate = rate}));
    const auto all = trainer.networks().tensors();
    const auto found = std::ranges::find(all, "losses", &NamedTensor<Scalar>::name);
    left.losses.emplace_back(found->data, found->data + classifiers);
  }
  left.encoder_after = frozen_of(trainer);
  left.weights = weights_of(trainer);
  return left;
}

// On the features of the same images eval::LinearProbe does the same.
template <ProbeNorm norm, class Scalar, class Rule>
void check(Rule rule, double rate) {
  using Objective = Probe<norm>;
  comm::Serial alone;
  const auto left = run_objective<norm, Scalar>(rule, rate, alone);
  eval::ProbeOptions options{.rates = {}, .normalize = norm == ProbeNorm::batch_norm, .threads = 1};
  for (int k = 0; k < classifiers; ++k) options.rates.push_back(Objective::rate_of({}, k));
  eval::LinearProbe<Scalar> probe(Encoder::out, classes, rule, options);
  const auto& entries = OnlineLayout<Objective>::entries;
  const auto part = [&](const std::vector<Scalar>& of, const std::string& name) {
    const auto entry = std::ranges::find(entries, name, [](const Entry& e) { return std::string(e.name.view()); });
    return std::vector<double>(of.begin() + entry->offset, of.begin() + entry->offset + entry->size());
  };
  const auto name = [](int k, const char* tensor) { return "head." + std::to_string(k) + "." + tensor; };
  for (int k = 0; k < classifiers; ++k) {
    std::ranges::copy(part(left.start, name(k, "weight")), probe.weight(k).begin());
    std::ranges::copy(part(left.start, name(k, "bias")), probe.bias(k).begin());
  }
  const auto labels = random_labels(all_rows, classes);
  const double bound = sizeof(Scalar) == 8 ? 1e-12 : 2e-5;
  for (int t = 0; t < steps; ++t) {
    std::vector<int> rows;
    for (int r = 0; r < batch; ++r) rows.push_back(t * static_cast<int>(batch) + r);
    probe.step({left.features.data(), all_rows, Encoder::out}, labels, rows, rate);
    double sum = 0;
    for (std::size_t k = 0; k < classifiers; ++k) {
      EXPECT_NEAR(left.losses[static_cast<std::size_t>(t)][k], probe.loss()[k], bound * std::max(1.0, probe.loss()[k]));
      sum += probe.loss()[k];
    }
    EXPECT_NEAR(left.sums[static_cast<std::size_t>(t)], sum, bound * sum);
  }
  for (int k = 0; k < classifiers; ++k) {
    EXPECT_LE(relative_error(probe.weight(k).data(), part(left.weights, name(k, "weight"))), bound) << k;
    EXPECT_LE(relative_error(probe.bias(k).data(), part(left.weights, name(k, "bias"))), bound) << k;
    EXPECT_GT(relative_error(probe.weight(k).data(), part(left.start, name(k, "weight"))), 5e-4) << k;
  }
  EXPECT_EQ(left.encoder_before, left.encoder_after);
}

TEST(LinearProbe, IsTheProbeOfCachedFeatures) {
  check<ProbeNorm::none, double>(optim::Sgd{}, 0.05);
  check<ProbeNorm::none, float>(optim::Sgd{}, 0.05);
}
TEST(LinearProbe, IsTheProbeOfCachedFeaturesWithLarsBehindBatchNorm) {
  check<ProbeNorm::batch_norm, double>(optim::Lars{.weight_decay = 0}, 10);
  check<ProbeNorm::batch_norm, float>(optim::Lars{.weight_decay = 0}, 10);
}

template <ProbeNorm norm>
void check_ranks() {
  comm::Serial serial;
  const auto alone = run_objective<norm, double>(optim::Sgd{}, 0.05, serial);
  for (const int ranks : {2, 3})
    comm::run_threads(ranks, [&](comm::Threads& communicator) {
      const auto left = run_objective<norm, double>(optim::Sgd{}, 0.05, communicator);
      for (std::size_t t = 0; t < steps; ++t) {
        EXPECT_NEAR(left.sums[t], alone.sums[t], 1e-11);
        for (std::size_t k = 0; k < classifiers; ++k) EXPECT_NEAR(left.losses[t][k], alone.losses[t][k], 1e-11);
      }
      EXPECT_LE(relative_error(left.weights.data(), alone.weights), 1e-11);
    });
}
TEST(LinearProbe, OfSeveralRanksIsThatOfOne) {
  check_ranks<ProbeNorm::none>();
  check_ranks<ProbeNorm::batch_norm>();
}

TEST(LinearProbe, TrainsTheClassifiersAlone) {
  using Objective = Probe<ProbeNorm::batch_norm>;
  for (const Entry& entry : OnlineLayout<Objective>::entries)
    EXPECT_TRUE(entry.name.view().starts_with("head.") && entry.role != Role::frozen) << entry.name.view();
  EXPECT_DOUBLE_EQ(Objective::rate_of({}, 0), 0.03);
  EXPECT_NEAR(Objective::rate_of({}, 1), std::sqrt(0.03 * 30), 1e-12);
  EXPECT_NEAR(Objective::rate_of({}, 2), 30, 1e-12);
}

// The encoder has memory for its tensors alone: gradient and velocity are the classifiers'.
TEST(LinearProbe, EncoderHasNeitherGradientNorState) {
  using Objective = Probe<ProbeNorm::none>;
  cpu::Backend<double> backend(1);
  comm::Serial alone;
  TrainerOn<Objective, cpu::Backend<double>> trainer(backend, alone, optim::Sgd{}, {.batch = batch});
  constexpr index encoder = Layout<Encoder>::parameters, heads = OnlineLayout<Objective>::parameters;
  EXPECT_EQ(trainer.parameter_bytes(), index{sizeof(double)} * (encoder + Layout<Encoder>::statistics + 3 * heads +
                                                                divide_up(classifiers, 128) * 128));
  std::vector<std::string> names;
  trainer.with_tensors([&](const auto& tensors) {
    for (const auto& tensor : tensors) names.push_back(tensor.name);
  });
  EXPECT_TRUE(std::ranges::count(names, "cls_token") == 1 && std::ranges::count(names, "head.0.weight") == 1);
  EXPECT_EQ(std::ranges::count(names, "optimizer.0.head.0.weight"), 1);
  EXPECT_EQ(std::ranges::count(names, "optimizer.0.cls_token"), 0);
}

// Another seed gives another encoder, and none of its tensors starts as the classifiers do.
TEST(LinearProbe, EncoderStartsFromTheSeed) {
  using Objective = Probe<ProbeNorm::none>;
  cpu::Backend<double> backend(1);
  comm::Serial alone;
  const auto encoder = [&](std::uint64_t seed) {
    return frozen_of(
        TrainerOn<Objective, cpu::Backend<double>>(backend, alone, optim::Sgd{}, {.batch = batch, .seed = seed}));
  };
  EXPECT_EQ(encoder(1), encoder(1));
  EXPECT_NE(encoder(1), encoder(2));
}

// The logits at evaluation are the classifier's of the features.
TEST(LinearProbe, Classifies) {
  using Objective = Probe<ProbeNorm::none>;
  using Backend = cpu::Backend<double>;
  Backend backend(1);
  comm::Serial alone;
  TrainerOn<Objective, Backend> trainer(backend, alone, optim::Sgd{}, {.batch = batch});
  const auto pixels = pictures<double>(0, batch);
  std::vector<double> features(batch * Encoder::out), logits(batch * classes);
  trainer.encode({pixels.data(), batch}, {features.data(), batch});
  const auto networks = trainer.networks().bind();
  Context<Backend, comm::Serial> context{backend, alone, Mode::evaluate};
  Objective::classify(context, networks, 2, Rows<const double, Encoder::in>{pixels.data(), batch},
                      Rows<double, classes>{logits.data(), batch});
  const double* const weight = std::get<0>(networks).heads[2].weight;
  for (index r = 0; r < batch; ++r)
    for (index c = 0; c < classes; ++c) {
      double sum = 0;
      for (index i = 0; i < Encoder::out; ++i)
        sum += features[static_cast<std::size_t>(r * Encoder::out + i)] * weight[c * Encoder::out + i];
      EXPECT_NEAR(logits[static_cast<std::size_t>(r * classes + c)], sum, 1e-12);
    }
}

TEST(LinearProbeBf16, TrainsAsDouble) {
  cpu::Backend<double> host(1);
  cpu::Backend<bf16> low(2);
  const auto expected = probe_losses(host), in_bf16 = probe_losses(low);
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_NEAR(in_bf16[t], expected[t], 0.1) << t;
}

}  // namespace
}  // namespace tessera::test
