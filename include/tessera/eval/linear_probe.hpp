// Linear probes: classifiers on features that are computed once, several learning rates in one pass (docs/method.md,
// 5.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/init.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/cross_entropy.hpp"
#include "tessera/cpu/update.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/eval/accuracy.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

struct ProbeOptions {
  std::vector<double> rates = {0.03, 0.1, 0.3, 1, 3, 10, 30};  // each of a classifier of its own
  int epochs = 90;
  index batch = 1024;      // the last batch of an epoch has the rows that are left
  bool normalize = false;  // BatchNorm without weight and bias in front (He et al., "Masked Autoencoders ...", A.1)
  std::uint64_t seed = 0;  // of the initial weights N(0, 0.01^2) and of the order of rows
  int threads = 0;         // 0: every processor

  // In epoch `epoch`, as a factor of each rate: (1 + cos(pi epoch / epochs)) / 2.
  [[nodiscard]] double schedule(int epoch) const { return 0.5 * (1.0 + std::cos(std::numbers::pi * epoch / epochs)); }
  // Throws Error that names the wrong value.
  void check() const {
    if (rates.empty()) fail("linear probe: there are no learning rates");
    for (const double rate : rates)
      if (!(rate >= 0 && std::isfinite(rate))) fail("linear probe: the learning rate {} is not at least 0", rate);
    if (epochs < 1) fail("linear probe: {} epochs; at least 1 is needed", epochs);
    if (batch < 1) fail("linear probe: a batch of {} rows; at least 1 is needed", batch);
  }
};

// Classifiers of features of `width` numbers, one for each learning rate, which see the same batches. Their results do
// not depend on the number of threads.
template <class Scalar>
class LinearProbe {
 public:
  static constexpr double epsilon = 1e-6, momentum = 0.1;  // of BatchNorm: MAE's

  // rule: optim::Sgd{.weight_decay = 0}, optim::Lars{...} or one's own. Throws Error for wrong options.
  template <class Rule>
  LinearProbe(index width, int classes, Rule rule, const ProbeOptions& options)
      : backend_(options.threads), updater_(std::move(rule)), options_(options), width_(width), classes_(classes) {
    options.check();
    if (width < 1 || classes < 1) fail("linear probe: {} features and {} classes", width, classes);
    const Shape matrix(classes, static_cast<int>(width)), vector(classes);
    for (int k = 0; k < count(); ++k) add(k, "weight", matrix, Initial::normal(0.01), k * matrix.size());
    for (int k = 0; k < count(); ++k)
      add(k, "bias", vector, Initial::constant(0), count() * matrix.size() + k * vector.size());
    const index all = count() * (matrix.size() + vector.size());
    weights_ = cpu::Buffer<Scalar>(all);
    gradient_ = cpu::Buffer<Scalar>(all);
    for (int i = 0; i < updater_.states(); ++i) states_.emplace_back(all);
    for (const auto& state : states_) state_pointers_.push_back(state.data());
    initialize(std::span<const Entry>(entries_), options.seed, weights_.data(), static_cast<Scalar*>(nullptr));
    running_mean_.assign(static_cast<std::size_t>(width), Scalar(0));
    running_variance_.assign(static_cast<std::size_t>(width), Scalar(1));
    loss_.assign(options.rates.size(), 0);
    update(0);  // plans what the rule takes, and changes nothing
    backend_.arena().commit();
    steps_ = 0;
  }

  // Number of classifiers; that of rates[k] has the tensors weight(k) (classes x width) and bias(k).
  [[nodiscard]] int count() const { return static_cast<int>(options_.rates.size()); }
  [[nodiscard]] int classes() const { return classes_; }
  [[nodiscard]] const ProbeOptions& options() const { return options_; }
  [[nodiscard]] std::span<Scalar> weight(int k) const { return tensor(k); }
  [[nodiscard]] std::span<Scalar> bias(int k) const { return tensor(count() + k); }
  [[nodiscard]] const std::vector<Scalar>& running_mean() const { return running_mean_; }
  [[nodiscard]] const std::vector<Scalar>& running_variance() const { return running_variance_; }
  // The mean cross entropy of each classifier on the batch of the last step.
  [[nodiscard]] const std::vector<double>& loss() const { return loss_; }

  // One step on these rows of the features, with rates[k] times `factor`. Throws Error for a label that is no class.
  void step(Features<Scalar> features, std::span<const int> labels, std::span<const int> rows, double factor) {
    gather(features, labels, rows);
    if (options_.normalize) normalize(static_cast<index>(rows.size()));
    forward(static_cast<index>(rows.size()));
    backward(static_cast<index>(rows.size()));
    update(factor);
  }

  // All epochs, each in an order of its own.
  void train(Features<Scalar> features, std::span<const int> labels) {
    if (features.rows < 1) fail("linear probe: there are no features to train on");
    for (int epoch = 0; epoch < options_.epochs; ++epoch) {
      const std::vector<int> order = data::epoch_order(static_cast<int>(features.rows), options_.seed, epoch);
      const std::span<const int> all(order);
      for (std::size_t first = 0; first < all.size(); first += static_cast<std::size_t>(options_.batch))
        step(features, labels,
             all.subspan(first, smaller(static_cast<std::size_t>(options_.batch), all.size() - first)),
             options_.schedule(epoch));
    }
  }

  // Logits (rows x classes) of classifier k; with the running statistics of BatchNorm.
  [[nodiscard]] std::vector<Scalar> scores(int k, Features<Scalar> features) const {
    expect_width(features);
    std::vector<Scalar> scores(static_cast<std::size_t>(features.rows * classes_));
    backend_.pool().for_pieces(features.rows, row_block, [&](index first, index last, int) {
      std::vector<Scalar> x(features.data + first * width_, features.data + last * width_);
      if (options_.normalize)
        for (index r = 0; r < last - first; ++r) standardize(running_mean_, running_variance_, x.data() + r * width_);
      multiply_rows(k, 1, last - first, x.data(), scores.data() + first * classes_, index{classes_});
    });
    return scores;
  }

 private:
  using Matmul = typename cpu::Backend<Scalar>::Matmul;
  static constexpr index row_block = 64, class_block = 128;

  void add(int k, std::string_view part, const Shape& shape, Initial initial, index offset) {
    entries_.push_back({Name{"head"} / k / part, shape, Role::trained, initial, offset});
    groups_.push_back({.rate = options_.rates[static_cast<std::size_t>(k)]});
  }
  [[nodiscard]] std::span<Scalar> tensor(int entry) const {
    const Entry& e = entries_[static_cast<std::size_t>(entry)];
    return weights_.span().subspan(static_cast<std::size_t>(e.offset), static_cast<std::size_t>(e.size()));
  }
  void expect_width(Features<Scalar> features) const {
    if (features.width != width_)
      fail("linear probe: features of {} numbers, but it is made for {}", features.width, width_);
  }

  // The rows of a batch one after the other, and their labels.
  void gather(Features<Scalar> features, std::span<const int> labels, std::span<const int> rows) {
    expect_width(features);
    x_.resize(rows.size() * static_cast<std::size_t>(width_));
    batch_labels_.resize(rows.size());
    for (std::size_t r = 0; r < rows.size(); ++r) {
      batch_labels_[r] = labels[static_cast<std::size_t>(rows[r])];
      if (batch_labels_[r] < 0 || batch_labels_[r] >= classes_)
        fail("linear probe: the label {} is none of the {} classes 0, 1, ...", batch_labels_[r], classes_);
    }
    backend_.pool().for_pieces(static_cast<index>(rows.size()), row_block, [&](index first, index last, int) {
      for (index r = first; r < last; ++r)
        std::copy_n(features.data + rows[static_cast<std::size_t>(r)] * width_, width_, x_.data() + r * width_);
    });
  }

  // x = (x - mean) / sqrt(variance + epsilon), with the batch's mean and biased variance; the running ones follow.
  void normalize(index rows) {
    if (rows < 2)
      fail("linear probe: BatchNorm needs at least 2 rows, but a batch has {}; use another batch size", rows);
    std::vector<Scalar> mean(running_mean_.size()), variance(running_mean_.size());
    backend_.pool().for_pieces(width_, 16, [&](index first, index last, int) {
      for (index c = first; c < last; ++c) {
        double sum = 0, squares = 0;
        for (index r = 0; r < rows; ++r) sum += static_cast<double>(x_[static_cast<std::size_t>(r * width_ + c)]);
        const double center = sum / static_cast<double>(rows);
        for (index r = 0; r < rows; ++r) {
          const double off = static_cast<double>(x_[static_cast<std::size_t>(r * width_ + c)]) - center;
          squares += off * off;
        }
        const auto at = static_cast<std::size_t>(c);
        mean[at] = static_cast<Scalar>(center);
        variance[at] = static_cast<Scalar>(squares / static_cast<double>(rows));
        follow(running_mean_[at], center);
        follow(running_variance_[at], squares / static_cast<double>(rows - 1));
      }
    });
    backend_.pool().for_pieces(rows, row_block, [&](index first, index last, int) {
      for (index r = first; r < last; ++r) standardize(mean, variance, x_.data() + r * width_);
    });
  }
  static void follow(Scalar& running, double value) {
    running = static_cast<Scalar>((1.0 - momentum) * static_cast<double>(running) + momentum * value);
  }
  void standardize(const std::vector<Scalar>& mean, const std::vector<Scalar>& variance, Scalar* row) const {
    for (index c = 0; c < width_; ++c)
      row[c] = (row[c] - mean[static_cast<std::size_t>(c)]) /
               std::sqrt(variance[static_cast<std::size_t>(c)] + static_cast<Scalar>(epsilon));
  }

  // Logits of the classifiers [first, first + number), side by side: y = x weight^T + bias, `stride` from row to row.
  void multiply_rows(int first, int number, index rows, const Scalar* x, Scalar* y, index stride) const {
    const index columns = index{number} * classes_;
    Matmul::multiply(rows, columns, width_, cpu::Operand<Scalar>{x, width_},
                     cpu::Operand<Scalar>{weight(first).data(), width_, true}, y, stride, false);
    for (index r = 0; r < rows; ++r)
      simd::transform(
          columns, y + r * stride, [](auto a, auto b) { return a + b; }, y + r * stride,
          static_cast<const Scalar*>(bias(first).data()));
  }

  // Losses, and the gradients of the logits (rows x classifiers x classes).
  void forward(index rows) {
    const int at_once = classes_ < class_block ? static_cast<int>(class_block) / classes_ : 1;
    const index across = divide_up(count(), at_once), stride = index{count()} * classes_;
    d_logits_.resize(static_cast<std::size_t>(rows * stride));
    losses_.resize(static_cast<std::size_t>(rows * count()));
    const cpu::detail::SoftTarget target(classes_, nullptr, nullptr);
    backend_.pool().for_pieces(divide_up(rows, row_block) * across, 1, [&](index piece, index, int) {
      const int k = static_cast<int>(piece % across) * at_once, number = smaller(at_once, count() - k);
      const index first = piece / across * row_block, last = smaller(first + row_block, rows);
      multiply_rows(k, number, last - first, x_.data() + first * width_,
                    d_logits_.data() + first * stride + k * classes_, stride);
      for (index r = first; r < last; ++r)
        for (int one = k; one < k + number; ++one) {
          const int label = batch_labels_[static_cast<std::size_t>(r)];
          Scalar* const row = d_logits_.data() + r * stride + one * classes_;
          losses_[static_cast<std::size_t>(r * count() + one)] = cpu::detail::cross_entropy_row<Scalar>(
              classes_, row, label, label, target, 1.0 / static_cast<double>(rows), row);
        }
    });
    std::ranges::fill(loss_, 0.0);
    for (std::size_t i = 0; i < losses_.size(); ++i) loss_[i % loss_.size()] += losses_[i] / static_cast<double>(rows);
  }

  void backward(index rows) {
    const index stride = index{count()} * classes_;
    Scalar* const d_weight = gradient_.data();
    Scalar* const d_bias = d_weight + stride * width_;
    backend_.pool().for_pieces(stride, class_block, [&](index first, index last, int) {
      const Scalar* const d = d_logits_.data() + first;
      Matmul::multiply(last - first, width_, rows, cpu::Operand<Scalar>{d, stride, true},
                       cpu::Operand<Scalar>{x_.data(), width_}, d_weight + first * width_, width_, false);
      std::fill(d_bias + first, d_bias + last, Scalar(0));
      for (index r = 0; r < rows; ++r)
        simd::transform(
            last - first, d_bias + first, [](auto a, auto b) { return a + b; },
            static_cast<const Scalar*>(d_bias + first), d + r * stride);
    });
  }

  void update(double factor) {
    const optim::StepCoefficients coefficients = updater_.coefficients(factor, ++steps_);
    const double blocked = 0;
    double overflow = 0;  // not looked at: a rate that is too large is a bad classifier, and the others go on
    const Part all{0, weights_.size(), 0};
    updater_.step(backend_, {entries_,
                             groups_,
                             {&all, 1},
                             &coefficients,
                             &blocked,
                             &overflow,
                             gradient_.data(),
                             weights_.data(),
                             state_pointers_});
  }

  mutable cpu::Backend<Scalar> backend_;
  optim::Updater<cpu::Backend<Scalar>> updater_;
  ProbeOptions options_;
  index width_;
  int classes_;
  long steps_ = 0;
  std::vector<Entry> entries_;  // the weights of all classifiers, then their biases, without gaps
  std::vector<optim::Group> groups_;
  cpu::Buffer<Scalar> weights_, gradient_;
  std::vector<cpu::Buffer<Scalar>> states_;
  std::vector<Scalar*> state_pointers_;
  std::vector<Scalar> running_mean_, running_variance_;
  std::vector<Scalar> x_, d_logits_;  // of a batch
  std::vector<int> batch_labels_;
  std::vector<double> losses_, loss_;
};

// The test accuracy of one learning rate.
struct ProbeResult {
  double rate = 0, top1 = 0, top5 = 0;  // shares of the test features; top 5 of fewer classes is 1
};

// Trains on `train` with every rate and tests on `test`: the results in the order of the rates. The number of classes
// is one more than the largest label. Throws Error for wrong options or labels.
template <class Scalar, class Rule = optim::Sgd>
[[nodiscard]] std::vector<ProbeResult> linear_probe(Features<Scalar> train, std::span<const int> labels,
                                                    Features<Scalar> test, std::span<const int> test_labels,
                                                    const ProbeOptions& options = {}, Rule rule = {}) {
  if (labels.empty() || test_labels.empty()) fail("linear probe: there are no labels");
  LinearProbe<Scalar> probe(train.width, *std::ranges::max_element(labels) + 1, rule, options);
  probe.train(train, labels);
  std::vector<ProbeResult> results;
  for (int k = 0; k < probe.count(); ++k) {
    const std::vector<Scalar> scores = probe.scores(k, test);
    const auto share = [&](int among) {
      return static_cast<double>(top_hits<Scalar>(scores, test_labels, among)) /
             static_cast<double>(test_labels.size());
    };
    results.push_back({options.rates[static_cast<std::size_t>(k)], share(1), share(5)});
  }
  return results;
}

// The first of the results with the largest top-1 accuracy.
[[nodiscard]] inline const ProbeResult& best(std::span<const ProbeResult> results) {
  return *std::ranges::max_element(results, {}, &ProbeResult::top1);
}

}  // namespace eval
}  // namespace TESSERA_ABI
}  // namespace tessera
