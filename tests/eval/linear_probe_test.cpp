#include "tessera/eval/linear_probe.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/fixture.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Probe : public testing::Test {};
using Scalars = testing::Types<double, float>;
TYPED_TEST_SUITE(Probe, Scalars);

constexpr double rates[] = {0.03, 0.3, 3, 30};
constexpr const char* rate_names[] = {"0.03", "0.3", "3.0", "30.0"};
constexpr int classes = 5, epochs = 3;

// The features, labels and orders of the fixture.
template <class Scalar>
struct Data {
  Fixture fixture{"study_evaluation"};
  std::vector<Scalar> train = fixture.template values<Scalar>("train"), test = fixture.template values<Scalar>("test");
  std::vector<int> labels = fixture.template values<int>("labels"),
                   test_labels = fixture.template values<int>("test_labels"),
                   order = fixture.template values<int>("order");
  index width = fixture.tensor("train").shape[1];

  [[nodiscard]] eval::Features<Scalar> bank() const { return {train.data(), static_cast<index>(labels.size()), width}; }
  [[nodiscard]] eval::Features<Scalar> queries() const {
    return {test.data(), static_cast<index>(test_labels.size()), width};
  }
};

// Trains all rates in one pass, in the fixture's order from its weights; losses[k] of every step.
template <class Scalar, class Rule>
std::vector<std::vector<double>> train(const Data<Scalar>& data, eval::LinearProbe<Scalar>& probe, Rule) {
  std::vector<std::vector<double>> losses(std::size(rates));
  const auto start = data.fixture.template values<Scalar>("weight");
  for (int k = 0; k < probe.count(); ++k) std::ranges::copy(start, probe.weight(k).begin());
  const std::size_t rows = data.labels.size();
  for (int epoch = 0; epoch < epochs; ++epoch)
    for (std::size_t first = 0; first < rows; first += 13) {
      probe.step(data.bank(), data.labels,
                 std::span(data.order)
                     .subspan(static_cast<std::size_t>(epoch) * rows + first, std::min(rows - first, std::size_t{13})),
                 probe.options().schedule(epoch));
      for (std::size_t k = 0; k < losses.size(); ++k) losses[k].push_back(probe.loss()[k]);
    }
  return losses;
}

template <class Scalar, class Rule>
void check(const std::string& kind, bool normalize, Rule rule) {
  const Data<Scalar> data;
  eval::ProbeOptions options;
  options.rates.assign(std::begin(rates), std::end(rates));
  options.epochs = epochs;
  options.normalize = normalize;
  options.threads = 2;
  eval::LinearProbe<Scalar> probe(data.width, classes, rule, options);
  const auto losses = train(data, probe, rule);
  for (int k = 0; k < probe.count(); ++k) {
    const std::string name = kind + "_" + rate_names[k];
    const auto at = static_cast<std::size_t>(k);
    const double bound = tolerance<Scalar>;
    expect_close(name + ".loss", losses[at].data(), data.fixture.tensor(name + ".loss"), bound);
    expect_close(name + ".weight", probe.weight(k).data(), data.fixture.tensor(name + ".weight"), bound);
    expect_close(name + ".bias", probe.bias(k).data(), data.fixture.tensor(name + ".bias"), bound);
    const auto scores = probe.scores(k, data.queries());
    for (const int among : {1, 2})
      EXPECT_EQ(eval::top_hits<Scalar>(scores, data.test_labels, among),
                data.fixture.tensor(name + ".hits").values[static_cast<std::size_t>(among - 1)])
          << name << ", top " << among;
    if (!normalize) continue;
    expect_close(name + ".running_mean", probe.running_mean().data(), data.fixture.tensor(name + ".running_mean"));
    expect_close(name + ".running_var", probe.running_variance().data(), data.fixture.tensor(name + ".running_var"));
  }
}

TYPED_TEST(Probe, EqualsTheReferenceWithSgd) {
  check<TypeParam>("sgd", false, optim::Sgd{});
}
TYPED_TEST(Probe, EqualsTheReferenceWithLarsBehindBatchNorm) {
  check<TypeParam>("lars_bn", true, optim::Lars{.weight_decay = 0});
}

template <class Scalar>
std::vector<std::vector<Scalar>> weights_with(int threads, index batch) {
  const Data<Scalar> data;
  eval::LinearProbe<Scalar> probe(
      data.width, classes, optim::Sgd{},
      {.rates = {0.1, 1}, .epochs = 2, .batch = batch, .normalize = true, .threads = threads});
  probe.train(data.bank(), data.labels);
  std::vector<std::vector<Scalar>> all;
  for (int k = 0; k < 2; ++k) all.emplace_back(probe.weight(k).begin(), probe.weight(k).end());
  return all;
}

TYPED_TEST(Probe, DoesNotDependOnTheNumberOfThreads) {
  EXPECT_EQ(weights_with<TypeParam>(1, 13), weights_with<TypeParam>(3, 13));
}

// A rate does not know of the others, but for its own initial weights.
TEST(ProbeRates, AreIndependent) {
  const Data<double> data;
  const auto end = [&](const std::vector<double>& of, int which) {
    eval::LinearProbe<double> probe(data.width, classes, optim::Lars{.weight_decay = 0},
                                    {.rates = of, .epochs = 2, .batch = 20});
    for (int k = 0; k < probe.count(); ++k) std::ranges::fill(probe.weight(k), 0.01);
    probe.train(data.bank(), data.labels);
    return std::vector<double>(probe.weight(which).begin(), probe.weight(which).end());
  };
  EXPECT_EQ(end({0.1, 5, 0.7}, 2), end({0.7}, 0));
}

TEST(ProbeResults, NameTheBestRate) {
  const Data<float> data;
  eval::ProbeOptions options{.rates = {1e-6, 0.03, 1e3}, .epochs = 30, .batch = 60};
  const auto results = eval::linear_probe(data.bank(), data.labels, data.queries(), data.test_labels, options);
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(eval::best(results).rate, 0.03);
  EXPECT_EQ(results[1].top5, 1);
  EXPECT_GT(results[1].top1, 0.5);
}

TEST(ProbeErrors, NameTheValueAndTheRemedy) {
  const Data<float> data;
  const auto message = [&](const eval::ProbeOptions& options, std::vector<int> labels, index batch_rows = 5) {
    try {
      eval::LinearProbe<float> probe(data.width, classes, optim::Sgd{}, options);
      const std::vector<int> rows(static_cast<std::size_t>(batch_rows), 0);
      probe.step(data.bank(), labels, rows, 1);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message({.rates = {}}, {0}).find("no learning rates"), std::string::npos);
  EXPECT_NE(message({.rates = {-1}}, {0}).find("-1"), std::string::npos);
  EXPECT_NE(message({.epochs = 0}, {0}).find("0 epochs"), std::string::npos);
  EXPECT_NE(message({}, {5}).find("the label 5"), std::string::npos);
  EXPECT_NE(message({.normalize = true}, {0}, 1).find("at least 2 rows"), std::string::npos);
}

}  // namespace
}  // namespace tessera::test
