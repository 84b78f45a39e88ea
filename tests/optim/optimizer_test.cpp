#include "tessera/optim/optimizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/optimizer.hpp"

namespace tessera::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Optimizer, IsChosenByName) {
  const auto adamw = std::get<optim::AdamW>(optim::optimizer_named("adamw", 0.3, {.beta2 = 0.95}));
  EXPECT_EQ(adamw.weight_decay, 0.3);
  EXPECT_EQ(adamw.beta1, 0.9);
  EXPECT_EQ(adamw.beta2, 0.95);
  EXPECT_EQ(adamw.epsilon, 1e-8);
  const auto lars = std::get<optim::Lars>(optim::optimizer_named("lars", 1e-4, {.momentum = 0.8, .trust = 0.02}));
  EXPECT_EQ(lars.momentum, 0.8);
  EXPECT_EQ(lars.trust, 0.02);
  EXPECT_EQ(std::get<optim::Lamb>(optim::optimizer_named("lamb", 0, {.epsilon = 1e-4})).epsilon, 1e-4);
  EXPECT_EQ(std::get<optim::Sgd>(optim::optimizer_named("sgd", 0)).momentum, 0.9);
}

TEST(Optimizer, UsualValuesStandBehindThoseThatAreGiven) {
  const optim::HyperParameters usual{.beta2 = 0.95, .momentum = 0.8};
  EXPECT_EQ(std::get<optim::AdamW>(optim::optimizer_named("adamw", 0, {}, usual)).beta2, 0.95);
  EXPECT_EQ(std::get<optim::AdamW>(optim::optimizer_named("adamw", 0, {.beta2 = 0.9}, usual)).beta2, 0.9);
  EXPECT_EQ(std::get<optim::Sgd>(optim::optimizer_named("sgd", 0, {}, usual)).momentum, 0.8);
}

TEST(Optimizer, TellsWhatDiffersFromItsDefaults) {
  const auto changed = optim::changed_hyper_parameters(optim::AdamW{.weight_decay = 0.3, .beta2 = 0.95});
  EXPECT_EQ(changed.beta2, 0.95);
  for (const auto& other : {changed.beta1, changed.epsilon, changed.momentum, changed.trust}) EXPECT_FALSE(other);
}

TEST(Optimizer, NamesAreListedWhereOneIsWrong) {
  EXPECT_THAT([] { static_cast<void>(optim::optimizer_named("adam", 0)); },
              ThrowsMessage<Error>(HasSubstr("'adam'; choose one of adamw, lars, lamb, sgd")));
  EXPECT_THAT([] { static_cast<void>(optim::optimizer_named("adamw", 0, {.momentum = 0.8})); },
              ThrowsMessage<Error>(HasSubstr("adamw has no momentum")));
}

template <class Rule>
void expect_like(Rule rule, int states, bool whole_tensors) {
  Steps chosen(optim::Optimizer{rule}), own(rule);
  EXPECT_EQ(chosen.updater.name(), Rule::name);
  EXPECT_EQ(chosen.updater.states(), states);
  EXPECT_EQ(chosen.updater.whole_tensors(), whole_tensors);
  for (Steps* steps : {&chosen, &own}) steps->step(2.0);
  EXPECT_EQ(chosen.weight, own.weight);
  EXPECT_EQ(chosen.states, own.states);
}

TEST(Optimizer, IsAnyOfTheRules) {
  expect_like(optim::AdamW{.weight_decay = 0.2}, 2, false);
  expect_like(optim::Lars{.weight_decay = 0.2}, 1, true);
  expect_like(optim::Lamb{.weight_decay = 0.2}, 3, true);
  expect_like(optim::Sgd{.weight_decay = 0.2}, 1, false);
}

// Five tensors with gaps between them, one of which has no gradient, and statistics, which lie in another buffer.
const std::array tensors{
    Entry{Name("a"), Shape(3, 7), Role::trained, {}, 0},    Entry{Name("b"), Shape(9), Role::trained, {}, 128},
    Entry{Name("mean"), Shape(9), Role::statistic, {}, 0},  Entry{Name("c"), Shape(2, 5), Role::frozen, {}, 256},
    Entry{Name("d"), Shape(20, 9), Role::trained, {}, 384}, Entry{Name("e"), Shape(4), Role::trained, {}, 640}};
constexpr index parameters = 768;

struct Stepped {
  std::vector<double> weight;
  std::vector<std::vector<double>> states;
};

// The buffers after two steps.
template <class Rule>
Stepped stepped(Rule rule, const optim::Grouping& grouping, const std::vector<Part>& parts = {{0, parameters, 0}}) {
  Steps steps(rule, grouping, tensors, parameters);
  steps.parts = parts;
  std::vector<double> gradient(static_cast<std::size_t>(parameters));
  for (int step = 0; step < 2; ++step) {
    for (const Entry& entry : tensors)
      if (entry.role == Role::trained)
        for (index i = 0; i < entry.size(); ++i)
          gradient[static_cast<std::size_t>(entry.offset + i)] = 0.1 * static_cast<double>((i * 7 + step) % 11) - 0.4;
    steps.step(gradient);
  }
  return {steps.weight, steps.states};
}

std::vector<double> of_tensor(const std::vector<double>& values, const Entry& entry) {
  return {values.begin() + entry.offset, values.begin() + entry.offset + entry.size()};
}

// Every tensor as if all were of its group.
template <class Rule>
void expect_groups(Rule rule) {
  SCOPED_TRACE(Rule::name);
  const auto grouping = [](const Entry& entry) {
    const std::string_view name = entry.name.view();
    return name == "a" ? optim::Group{.rate = 0.5, .decay = 2} : optim::Group{.decay = 0, .frozen = name == "d"};
  };
  const Stepped mixed = stepped(rule, grouping);
  for (const Entry& entry : tensors) {
    if (entry.role == Role::statistic) continue;
    SCOPED_TRACE(std::string(entry.name.view()));
    const optim::Group group = grouping(entry);
    const Stepped alone = stepped(rule, [&](const Entry&) { return group; });
    const auto size = static_cast<std::size_t>(entry.size());
    const bool moves = entry.role == Role::trained && !group.frozen;
    EXPECT_EQ(of_tensor(mixed.weight, entry), of_tensor(alone.weight, entry));
    EXPECT_EQ(of_tensor(mixed.weight, entry) == std::vector<double>(size, 0.5), !moves);
    for (std::size_t i = 0; i < mixed.states.size(); ++i) {
      EXPECT_EQ(of_tensor(mixed.states[i], entry), of_tensor(alone.states[i], entry));
      EXPECT_EQ(of_tensor(mixed.states[i], entry) == std::vector<double>(size), !moves);
    }
  }
}

TEST(Optimizer, UpdatesEveryTensorByItsGroup) {
  expect_groups(optim::AdamW{.weight_decay = 0.2});
  expect_groups(optim::Lars{.weight_decay = 0.2});
  expect_groups(optim::Lamb{.weight_decay = 0.2});
  expect_groups(optim::Sgd{.weight_decay = 0.2});
}

// Two ranks' parts, whose states lie one behind the other in the other order.
template <class Rule>
void expect_parts(Rule rule) {
  SCOPED_TRACE(Rule::name);
  const optim::Grouping grouping = optim::no_decay_of_vectors();
  const Stepped whole = stepped(rule, grouping);
  const Stepped split = stepped(rule, grouping, {{0, 128, 640}, {128, parameters, 0}});
  EXPECT_EQ(split.weight, whole.weight);
  for (std::size_t i = 0; i < whole.states.size(); ++i) {
    std::vector<double> joined = split.states[i];
    std::ranges::rotate(joined, joined.begin() + 640);
    EXPECT_EQ(joined, whole.states[i]);
  }
  const Stepped part = stepped(rule, grouping, {{128, parameters, 0}});
  EXPECT_EQ(part.weight[0], 0.5);
  EXPECT_EQ(part.weight[128], whole.weight[128]);
}

TEST(Optimizer, UpdatesPartsAsTheWhole) {
  expect_parts(optim::AdamW{.weight_decay = 0.2});
  expect_parts(optim::Lars{.weight_decay = 0.2});
  expect_parts(optim::Lamb{.weight_decay = 0.2});
  expect_parts(optim::Sgd{.weight_decay = 0.2});
}

TEST(Optimizer, ChangesNothingWhenBlocked) {
  for (const char* name : {"adamw", "lars", "lamb", "sgd"}) {
    Steps steps(optim::optimizer_named(name, 0.3));
    steps.blocked = 1;
    const auto weight = steps.weight;
    const auto states = steps.states;
    steps.step(2.0);
    EXPECT_EQ(steps.weight, weight) << name;
    EXPECT_EQ(steps.states, states) << name;
  }
}

TEST(Optimizer, WantsAGroupForEveryTensor) {
  Steps::Backend backend(1);
  const optim::Updater<Steps::Backend> updater(optim::Sgd{});
  EXPECT_THAT(
      [&] {
        updater.step(backend, {tensors, {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, {}});
      },
      ThrowsMessage<Error>(HasSubstr("6 tensors has 0 groups")));
}

}  // namespace
}  // namespace tessera::test
