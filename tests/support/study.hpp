// Objectives against the oracle's runs of eight steps, study_* of tests/reference/study_fixtures.py: losses, gradients
// of the first step, and digests of all tensors after the first step and the last.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "support/fixture.hpp"
#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::test {

// The sizes of study_fixtures.py: 15 x 15 images, patch 3, width 8, 2 blocks, 4 heads.
template <class... Policies>
using StudyEncoder = VisionTransformer<image<15>, patch<3>, 8, 2, 4, 4, vit::policies<Policies...>>;
inline constexpr int study_hidden = 14, study_out = 6;  // of its heads

// A tensor in four numbers: sum, sum of squares, sum of x_i cos(i), largest |x_i| (tests/reference/tools.py, digest).
using Digest = std::vector<double>;
template <class Scalar>
[[nodiscard]] Digest digest(const std::vector<Scalar>& tensor) {
  Digest four(4);
  for (std::size_t i = 0; i < tensor.size(); ++i) {
    const double x = static_cast<double>(tensor[i]);
    four[0] += x;
    four[1] += x * x;
    four[2] += x * std::cos(static_cast<double>(i));
    four[3] = std::max(four[3], std::abs(x));
  }
  return four;
}

// In the byte order of names, as the rows of a fixture's digests.
using Digests = std::map<std::string, Digest>;

// Compares with the rows of the fixture's tensor `key`, each relative to its largest number. Tensors whose gradient is
// zero in exact arithmetic, all or a third of it, are compared to 1e-6 (docs/method.md, "Gradients that are zero").
inline void expect_digests(const Fixture& fixture, const std::string& key, const Digests& digests, double bound) {
  const Tensor& expected = fixture.tensor(key);
  ASSERT_EQ(static_cast<std::size_t>(expected.shape[0]), digests.size()) << key;
  const std::string zero = " " + fixture.text("zero_gradient") + " ";
  auto row = expected.values.begin();
  for (const auto& [name, four] : digests) {
    const std::vector<double> reference(row, row + 4);
    row += 4;
    const bool blurred = name.ends_with("qkv.bias") || zero.find(" " + name + " ") != std::string::npos;
    for (std::size_t i = 0; blurred && i < 4; ++i)
      EXPECT_NEAR(four[i], reference[i], std::max(bound, 1e-6)) << key << " of " << name << ", number " << i;
    const double error = relative_error(four.data(), reference);
    EXPECT_TRUE(blurred || error <= bound) << key << " of " << name << " is off by " << error;
  }
}

// How many tensors of the fixture have names that start with `prefix`.
[[nodiscard]] inline int tensors_under(const Fixture& fixture, std::string_view prefix) {
  return static_cast<int>(
      std::ranges::count_if(fixture.tensors(), [&](const auto& one) { return one.first.starts_with(prefix); }));
}

// A trainer that starts where the fixture starts and reads the fixture's images, of which a rank has its share.
template <class Objective, class Backend, class Communicator = comm::Serial>
class Study {
 public:
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Reads = typename Objective::Reads;
  using Online = OnlineLayout<Objective>;
  static constexpr index steps = 8;

  template <class Rule>
  Study(Backend& backend, const Fixture& fixture, Rule rule, Communicator communicator = {},
        optim::Grouping groups = optim::uniform(), double clip_grad = 0)
      : backend_(backend),
        fixture_(fixture),
        communicator_(std::move(communicator)),
        trainer_(backend, communicator_, rule,
                 {.batch = all_images() / communicator_.size(), .groups = groups, .clip_grad = clip_grad}) {
    for_groups([&]<std::size_t group>() {
      using Group = typename Reads::template Group<group>;
      crops_.emplace_back(backend, Group::count * trainer_.batch() * Group::Image::values);
      std::get<group>(batch_.crops).data = crops_.back().data();
    });
    start();
  }

  // Step t = 0, 1, ..., 7 with the fixture's rate; returns the loss.
  double step(index t, const typename Objective::Settings& settings) {
    int first = 1;
    for_groups([&]<std::size_t group>() {
      constexpr int count = Reads::template Group<group>::count;
      crops_[group].assign(pixels(t, first, count));
      first += count;
    });
    if constexpr (Reads::labels) assign_labels(t);
    StepSettings<Objective> all{.learning_rate = fixture_.tensor("lr").values[static_cast<std::size_t>(t)]};
    all.settings = settings;
    if (still_) all.learning_rate = 0;
    return trainer_.step(batch_, all);
  }

  // From now on steps have a rate of 0.
  void hold_still() { still_ = true; }

  [[nodiscard]] std::vector<Master> gradient() const {
    return downloaded(backend_, static_cast<const Master*>(trainer_.gradient()), Online::parameters);
  }
  [[nodiscard]] std::vector<Master> weights() const { return weights_of(trainer_); }

  [[nodiscard]] Digests gradient_digests() const {
    Digests digests;
    const auto all = gradient();
    for (const Entry& entry : Online::entries)
      if (entry.role == Role::trained)
        digests[std::string(entry.name.view())] =
            digest(std::vector<Master>(all.begin() + entry.offset, all.begin() + entry.offset + entry.size()));
    return digests;
  }
  // Of all tensors but BatchNorm's counters.
  [[nodiscard]] Digests tensor_digests() const {
    Digests digests;
    for (const auto& tensor : trainer_.networks().tensors())
      if (!is_counter(tensor.name))
        digests[tensor.name] =
            digest(downloaded(backend_, static_cast<const Master*>(tensor.data), tensor.shape.size()));
    return digests;
  }

  [[nodiscard]] auto& trainer() { return trainer_; }

 private:
  static bool is_counter(const std::string& name) { return name.ends_with("num_batches_tracked"); }

  template <class Body>
  static void for_groups(Body&& body) {
    [&]<std::size_t... group>(std::index_sequence<group...>) {
      (body.template operator()<group>(), ...);
    }
    (std::make_index_sequence<Reads::groups>{});
  }

  [[nodiscard]] index all_images() const { return static_cast<index>(fixture_.number("batch")); }

  // This rank's rows of the `count` crops from crop `first` on, stacked. The images are x1, x2, ..., and r1, r2 where
  // the first crops are not of the size of x1; real(u) of tests/reference/tools.py makes them numbers.
  [[nodiscard]] std::vector<double> pixels(index t, int first, int count) const {
    using Image = typename Reads::template Group<0>::Image;
    const char letter = images_.tensor("x1").shape.back() == Image::size ? 'x' : 'r';
    std::vector<double> stacked;
    for (int crop = first; crop < first + count; ++crop) {
      const Tensor& all = images_.tensor(letter + std::to_string(crop));
      const index batches = all.shape[0],
                  share = static_cast<index>(all.values.size()) / batches / communicator_.size();
      const auto from = all.values.begin() + ((t % batches) * communicator_.size() + communicator_.rank()) * share;
      std::transform(from, from + share, std::back_inserter(stacked), [](double u) { return (u - 128) / 64; });
    }
    return stacked;
  }

  // This rank's labels of step t, where the objective reads some.
  void assign_labels(index t) {
    const index share = trainer_.batch(), first = t * all_images() + communicator_.rank() * share;
    const auto all = fixture_.template values<int>("labels");
    backend_.upload(share, all.data() + first, labels_.data());
    backend_.wait();
    batch_.labels = labels_.data();
  }

  // Tensors start as the fixture says; averages that it does not hold start as what they follow.
  void start() {
    trainer_.resume([&](const auto& tensors) {
      int assigned = 0;
      for (const auto& tensor : tensors) {
        const std::string key = "before." + tensor.name;
        if (is_counter(tensor.name) || !fixture_.contains(key)) continue;
        const auto values = fixture_.template values<Master>(key);
        backend_.upload(tensor.shape.size(), values.data(), tensor.data);
        ++assigned;
      }
      EXPECT_EQ(assigned, tensors_under(fixture_, "before."));
      start_averages(std::make_index_sequence<std::tuple_size_v<typename Objective::Networks::AverageSets>>{});
      return 0L;
    });
  }
  template <std::size_t... which>
  void start_averages(std::index_sequence<which...>) {
    (start_average<which>(), ...);
  }
  template <std::size_t which>
  void start_average() {
    const auto& online = trainer_.networks().online();
    const auto& average = trainer_.networks().template average<which>();
    const auto& entries = AverageLayout<Objective, which>::entries;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const Entry &to = entries[i], &from = Online::entries[i];
      if (to.role == Role::statistic || fixture_.contains("before." + std::string(to.name.view()))) continue;
      const Master* const values = online.parameters();
      Master* const copy = average.parameters();
      backend_.upload(to.size(), downloaded(backend_, values + from.offset, to.size()).data(), copy + to.offset);
      backend_.wait();
    }
  }

  Backend& backend_;
  const Fixture& fixture_;
  const Fixture images_{"study_images"};
  Communicator communicator_;
  bool still_ = false;
  TrainerOn<Objective, Backend, Communicator> trainer_;
  std::vector<Held<Scalar, Backend>> crops_;  // one of each group
  typename Backend::template Buffer<int> labels_{trainer_.batch()};
  data::Batch<Scalar, Reads> batch_ = data::Batch<Scalar, Reads>::planned(trainer_.batch());
};

// The fixture's eight steps on one rank. settings_of(fixture, t) gives the objective's settings of step t. Digests are
// compared in double alone: where a gradient is small, AdamW makes a step of the rounding in it.
template <class Objective, class Backend, class Rule, class SettingsOf>
void check_study(Backend& backend, const char* name, Rule rule, SettingsOf&& settings_of,
                 optim::Grouping groups = optim::uniform()) {
  using Master = Accumulator<typename Backend::Scalar>;
  constexpr bool in_double = std::is_same_v<Master, double>;
  const Fixture fixture(name);
  Study<Objective, Backend> run(backend, fixture, rule, {}, groups);
  const auto entries = std::span<const Entry>(OnlineLayout<Objective>::entries);
  for (index t = 0; t < run.steps; ++t) {
    const double expected = fixture.tensor("loss").values[static_cast<std::size_t>(t)];
    EXPECT_NEAR(run.step(t, settings_of(fixture, t)), expected, tolerance<Master> * std::max(1.0, std::abs(expected)))
        << "step " << t;
    if (t > 0) continue;
    EXPECT_EQ(expect_entries_close<Master>(fixture, entries, "grad.", run.gradient().data(), nullptr),
              tensors_under(fixture, "grad."));
    if (fixture.contains("grad_digest"))
      expect_digests(fixture, "grad_digest", run.gradient_digests(), tolerance<Master>);
    if (in_double) expect_digests(fixture, "after_digest", run.tensor_digests(), 1e-8);
  }
  if (in_double) expect_digests(fixture, "end_digest", run.tensor_digests(), 1e-8);
}

// What a run of eight steps leaves.
struct StudyOutcome {
  std::vector<double> losses, gradient, weights;  // the gradient is that of the first step
};

template <class Objective, class Rule, class SettingsOf, class Communicator>
[[nodiscard]] StudyOutcome study_outcome(const Fixture& fixture, Rule rule, SettingsOf&& settings_of,
                                         Communicator communicator) {
  cpu::Backend<double> backend(1);
  Study<Objective, cpu::Backend<double>, Communicator> run(backend, fixture, rule, std::move(communicator));
  StudyOutcome outcome;
  for (index t = 0; t < run.steps; ++t) {
    outcome.losses.push_back(run.step(t, settings_of(fixture, t)));
    if (t == 0) outcome.gradient = run.gradient();
  }
  outcome.weights = run.weights();
  return outcome;
}

// Two and three ranks train as one does, in double. The rule must not magnify gradients that are zero in exact
// arithmetic, as AdamW does.
template <class Objective, class Rule, class SettingsOf>
void check_study_ranks(const char* name, Rule rule, SettingsOf&& settings_of, double bound = 1e-10) {
  using Online = OnlineLayout<Objective>;
  const Fixture fixture(name);
  const StudyOutcome alone = study_outcome<Objective>(fixture, rule, settings_of, comm::Serial{});
  const auto error = [](const std::vector<double>& values, const std::vector<double>& expected) {
    double largest = 0;
    for (const Entry& entry : Online::entries) {
      if (entry.role != Role::trained) continue;
      const auto from = expected.begin() + entry.offset;
      largest = std::max(largest, relative_error(values.data() + entry.offset, {from, from + entry.size()}));
    }
    return largest;
  };
  for (const int ranks : {2, 3}) {
    std::vector<StudyOutcome> outcomes(static_cast<std::size_t>(ranks));
    comm::run_threads(ranks, [&](comm::Threads& communicator) {
      outcomes[static_cast<std::size_t>(communicator.rank())] =
          study_outcome<Objective>(fixture, rule, settings_of, communicator.duplicate());
    });
    for (const StudyOutcome& outcome : outcomes) {
      for (std::size_t t = 0; t < outcome.losses.size(); ++t)
        EXPECT_NEAR(outcome.losses[t], alone.losses[t], bound) << ranks << " ranks, step " << t;
      EXPECT_LE(error(outcome.gradient, alone.gradient), bound) << ranks << " ranks";
      EXPECT_LE(error(outcome.weights, alone.weights), bound) << ranks << " ranks";
    }
  }
}

}  // namespace tessera::test
