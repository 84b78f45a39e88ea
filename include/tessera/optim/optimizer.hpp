// Optimizers as values: the library's by name, and any rule for a backend.
#pragma once

#include <concepts>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/optim/adamw.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/optim/lamb.hpp"
#include "tessera/optim/lars.hpp"
#include "tessera/optim/rule.hpp"
#include "tessera/optim/sgd.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// One of the library's optimizers, chosen at run time.
using Optimizer = std::variant<AdamW, Lars, Lamb, Sgd>;

// Hyper-parameters of a rule; without a value the rule's default holds.
struct HyperParameters {
  std::optional<double> beta1 = std::nullopt, beta2 = std::nullopt, epsilon = std::nullopt, momentum = std::nullopt,
                        trust = std::nullopt;
};

namespace detail {

template <class... Rules>
[[nodiscard]] std::string names_of(std::type_identity<std::variant<Rules...>>) {
  std::string names;
  ((names += (names.empty() ? "" : ", ") + std::string(Rules::name)), ...);
  return names;
}

// Calls body(name, field of HyperParameters, member of rule); the member is null where the rule has none.
template <class Rule, class Body>
void for_hyper_parameters(Rule& rule, Body&& body) {
  double *beta1 = nullptr, *beta2 = nullptr, *epsilon = nullptr, *momentum = nullptr, *trust = nullptr;
  if constexpr (requires { rule.beta1; }) beta1 = &rule.beta1;
  if constexpr (requires { rule.beta2; }) beta2 = &rule.beta2;
  if constexpr (requires { rule.epsilon; }) epsilon = &rule.epsilon;
  if constexpr (requires { rule.momentum; }) momentum = &rule.momentum;
  if constexpr (requires { rule.trust; }) trust = &rule.trust;
  body("beta1", &HyperParameters::beta1, beta1);
  body("beta2", &HyperParameters::beta2, beta2);
  body("epsilon", &HyperParameters::epsilon, epsilon);
  body("momentum", &HyperParameters::momentum, momentum);
  body("trust", &HyperParameters::trust, trust);
}

template <class Rule>
[[nodiscard]] Rule configured(double weight_decay, const HyperParameters& values, const HyperParameters& usual) {
  Rule rule{.weight_decay = weight_decay};
  for_hyper_parameters(rule, [&](const char* name, auto field, double* member) {
    const std::optional<double>& value = values.*field;
    if (value && member == nullptr)
      fail("the optimizer {} has no {}, which is to be {}; leave it out", Rule::name, name, *value);
    if (member != nullptr) *member = value.value_or((usual.*field).value_or(*member));
  });
  return rule;
}

template <class... Rules>
[[nodiscard]] std::optional<Optimizer> find_optimizer(std::type_identity<std::variant<Rules...>>, std::string_view name,
                                                      double weight_decay, const HyperParameters& values,
                                                      const HyperParameters& usual) {
  std::optional<Optimizer> found;
  ((Rules::name == name ? static_cast<void>(found = configured<Rules>(weight_decay, values, usual)) : void()), ...);
  return found;
}

}  // namespace detail

// The names of the library's optimizers, "adamw, lars, ...".
[[nodiscard]] inline std::string optimizer_names() {
  return detail::names_of(std::type_identity<Optimizer>{});
}

// The optimizer `name`. Throws Error if there is none, or if `values` has a hyper-parameter that it does not have.
// usual: hyper-parameters that take the place of the rule's defaults where the rule has them.
[[nodiscard]] inline Optimizer optimizer_named(std::string_view name, double weight_decay,
                                               const HyperParameters& values = {}, const HyperParameters& usual = {}) {
  const auto found = detail::find_optimizer(std::type_identity<Optimizer>{}, name, weight_decay, values, usual);
  if (!found) fail("there is no optimizer '{}'; choose one of {}", name, optimizer_names());
  return *found;
}

// The hyper-parameters of an optimizer that are not its rule's defaults.
[[nodiscard]] inline HyperParameters changed_hyper_parameters(const Optimizer& optimizer) {
  HyperParameters changed;
  const auto compare = [&](auto rule) {
    decltype(rule) own;
    detail::for_hyper_parameters(rule, [&](const char*, auto field, const double* member) {
      if (member != nullptr) changed.*field = *member;
    });
    detail::for_hyper_parameters(own, [&](const char*, auto field, const double* member) {
      if (member != nullptr && changed.*field == *member) (changed.*field).reset();
    });
  };
  std::visit(compare, optimizer);
  return changed;
}

namespace detail {

[[nodiscard]] inline bool updated(const Entry& entry, const Group& group) {
  return entry.role == Role::trained && !group.frozen;
}

// Calls body(offset, size, state offset, group) for every range of consecutive updated entries of one group, cut to the
// parts. A range includes the gaps between its entries, which hold zeros.
template <class Body>
void for_stretches(std::span<const Entry> entries, std::span<const Group> groups, std::span<const Part> parts,
                   Body&& body) {
  const auto within_parts = [&](index at, index end, const Group& group) {
    for (const Part& part : parts) {
      const index first = larger(at, part.first), last = smaller(end, part.last);
      if (first < last) body(first, last - first, part.state + first - part.first, group);
    }
  };
  const Group* current = nullptr;  // the group of the range [first, end), null without a range
  index first = 0, end = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].role == Role::statistic) continue;
    const bool is_updated = updated(entries[i], groups[i]);
    if (current != nullptr && !(is_updated && groups[i] == *current)) {
      within_parts(first, end, *current);
      current = nullptr;
    }
    if (!is_updated) continue;
    if (current == nullptr) {
      current = &groups[i];
      first = entries[i].offset;
    }
    end = entries[i].offset + entries[i].size();
  }
  if (current != nullptr) within_parts(first, end, *current);
}

// Calls body(offset, size, state offset, shape, group) for every updated entry in the parts. Parts must end between
// entries.
template <class Body>
void for_tensors(std::span<const Entry> entries, std::span<const Group> groups, std::span<const Part> parts,
                 Body&& body) {
  for (const Part& part : parts)
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const Entry& entry = entries[i];
      if (updated(entry, groups[i]) && entry.offset >= part.first && entry.offset < part.last)
        body(entry.offset, entry.size(), part.state + entry.offset - part.first, entry.shape, groups[i]);
    }
}

}  // namespace detail

// Any rule for one backend: AdamW{...}, Lars{...}, a user's own, or an Optimizer. A step makes one virtual call.
template <class Backend>
class Updater {
 public:
  using Scalar = typename Backend::Scalar;

  template <class Rule>
  explicit Updater(Rule rule) requires(!std::same_as<Rule, Updater>) : rule_(make(std::move(rule))) {}

  [[nodiscard]] std::string_view name() const { return rule_->name(); }
  // The number of moments of the rule: flat buffers beside the weights.
  [[nodiscard]] int states() const { return rule_->states(); }
  // True if the rule needs norms of whole tensors, so that the parts of an update must end between entries.
  [[nodiscard]] bool whole_tensors() const { return rule_->whole_tensors(); }
  // The coefficients of step number `step` = 1, 2, ...
  [[nodiscard]] StepCoefficients coefficients(double learning_rate, long step) const {
    return rule_->coefficients(learning_rate, step);
  }
  // Updates the weights and moments. Throws Error unless there is one group for each entry.
  void step(Backend& backend, const Update<Scalar>& update) const {
    if (update.groups.size() != update.entries.size())
      fail("an update of {} tensors has {} groups; give one group for each tensor", update.entries.size(),
           update.groups.size());
    rule_->step(backend, update);
  }

 private:
  struct Any {
    virtual ~Any() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual int states() const = 0;
    [[nodiscard]] virtual bool whole_tensors() const = 0;
    [[nodiscard]] virtual StepCoefficients coefficients(double learning_rate, long step) const = 0;
    virtual void step(Backend&, const Update<Scalar>&) const = 0;
  };

  template <class Rule>
  struct Of final : Any {
    static constexpr std::size_t count = Rule::states;

    Rule rule;

    explicit Of(Rule value) : rule(std::move(value)) {}
    [[nodiscard]] std::string_view name() const override { return Rule::name; }
    [[nodiscard]] int states() const override { return Rule::states; }
    [[nodiscard]] bool whole_tensors() const override { return TensorRule<Rule>; }
    [[nodiscard]] StepCoefficients coefficients(double learning_rate, long step) const override {
      const typename Rule::Coefficients values = rule.coefficients(learning_rate, step);
      StepCoefficients all{};
      std::memcpy(all.data(), &values, sizeof(values));
      return all;
    }
    void step(Backend& backend, const Update<Scalar>& u) const override {
      const auto* const coefficients = reinterpret_cast<const typename Rule::Coefficients*>(u.coefficients);
      if constexpr (TensorRule<Rule>) {
        detail::for_tensors(u.entries, u.groups, u.parts,
                            [&](index at, index size, index state, const Shape& shape, Group group) {
                              const bool adapts = Rule::adapts(shape);
                              if (!adapts) group.decay = 0;
                              update_tensor<Rule>(backend, size, coefficients, group, adapts, u.blocked, u.overflow,
                                                  u.gradient + at, u.weight + at, states_at(u, state));
                            });
      } else {
        detail::for_stretches(u.entries, u.groups, u.parts, [&](index at, index size, index state, const Group& group) {
          update_elements<Rule>(backend, size, coefficients, group, u.blocked, u.overflow, u.gradient + at,
                                u.weight + at, states_at(u, state));
        });
      }
    }
    [[nodiscard]] static std::array<Accumulator<Scalar>*, count> states_at(const Update<Scalar>& u, index offset) {
      std::array<Accumulator<Scalar>*, count> states{};
      for (std::size_t i = 0; i < count; ++i) states[i] = u.state[i] + offset;
      return states;
    }
  };

  template <class Rule>
  [[nodiscard]] static std::shared_ptr<const Any> make(Rule rule) {
    if constexpr (std::same_as<Rule, Optimizer>) {
      return std::visit([](const auto& one) { return make(one); }, rule);
    } else {
      static_assert(OptimizerRule<Rule>,
                    "tessera: an optimizer's rule needs a name, a number of states, Coefficients of at most 8 doubles, "
                    "coefficients(rate, step), factors<Number>(coefficients, group) and update(factors, weight, "
                    "gradient, states...) for packs and scalars; with norms of tensors keeps_direction, adapts, "
                    "direction and ratio too: see tessera/optim/rule.hpp");
      return std::make_shared<const Of<Rule>>(std::move(rule));
    }
  }

  std::shared_ptr<const Any> rule_;
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
