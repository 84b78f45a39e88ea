// The rule of an optimizer, written once for packs (CPU) and scalars (devices). Backends run it over flat buffers.
//
// A rule of elements, such as AdamW, updates each element by itself:
//
//   struct SignSgd {
//     static constexpr std::string_view name = "sign_sgd";
//     static constexpr int states = 0;                              // number of moments, zero at first
//     double weight_decay = 0;
//     struct Coefficients { double learning_rate, weight_decay; };  // of one step: at most 8 doubles
//     Coefficients coefficients(double learning_rate, long step) const { return {learning_rate, weight_decay}; }
//
//     template <class Number> struct Factors { Number rate, decay; };  // of one group, in the type of the weights
//     template <class Number>
//     static constexpr Factors<Number> factors(const Coefficients& c, const optim::Group& group) {
//       const double rate = c.learning_rate * group.rate;
//       return {static_cast<Number>(rate), static_cast<Number>(1 - rate * c.weight_decay * group.decay)};
//     }
//     template <class Factors, class Value>
//     static constexpr void update(const Factors& f, Value& weight, Value gradient /*, Value& state ... */) {
//       weight = weight * f.decay - (gradient > 0 ? Value{} + f.rate : Value{} - f.rate);
//     }
//   };
//
// A rule of tensors, such as LARS, multiplies the rate of a tensor by a ratio of norms. Its additional members:
//
//     static constexpr bool keeps_direction = false;
//     static constexpr bool adapts(const Shape&);      // false: ratio 1 and no decay for tensors of this shape
//     static constexpr Value direction(const Factors&, Value weight, Value gradient);
//     static constexpr double ratio(const Coefficients&, double weight_norm, double direction_norm);
//
// Its `factors` has the ratio as third argument: 1 for the direction, the tensor's ratio for the update. With
// keeps_direction, as in LAMB, the last state holds the direction: `direction` takes the other states by reference and
// updates them, and `update` takes the direction in place of gradient and states.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// Memory for the coefficients of one step: the Coefficients of a rule lie at its start.
using StepCoefficients = std::array<double, 8>;

// The operands of one update. It changes the trained entries whose group is not frozen, within the parts; it changes
// nothing if *blocked is not 0, and assigns *overflow = 1 if a weight or a moment is not finite afterwards. gradient
// and weight are whole flat buffers; state has the moments of the parts alone.
template <class Scalar>
struct Update {
  std::span<const Entry> entries;
  std::span<const Group> groups;  // one for each entry
  std::span<const Part> parts;
  const StepCoefficients* coefficients;  // in memory of the backend, as all that follow
  const double* blocked;
  double* overflow;
  const Accumulator<Scalar>* gradient;
  Parameter<Scalar> weight;
  std::span<Accumulator<Scalar>* const> state;  // the array of pointers is in memory of the host
};

// A rule whose update depends on norms of the whole tensor.
template <class Rule>
concept TensorRule = requires {
  { Rule::keeps_direction } -> std::convertible_to<bool>;
};

namespace detail {

template <class Rule, class Number>
[[nodiscard]] constexpr auto factors_of(const typename Rule::Coefficients& coefficients,
                                        const Group& group) requires requires {
  Rule::template factors<Number>(coefficients, group, 1.0);
} || requires {
  Rule::template factors<Number>(coefficients, group);
}
{
  if constexpr (TensorRule<Rule>)
    return Rule::template factors<Number>(coefficients, group, 1.0);
  else
    return Rule::template factors<Number>(coefficients, group);
}

// moves: Rule has update(factors, weight, gradient, states...) for Value; directs: it has direction(...).
template <class Rule, class Number, class Value, std::size_t... state>
consteval bool moves(std::index_sequence<state...>) {
  using Factors = decltype(factors_of<Rule, Number>(std::declval<const typename Rule::Coefficients&>(), Group{}));
  constexpr bool updates = requires(const Factors& f, Value& weight, Value gradient, Value* states) {
    Rule::update(f, weight, gradient, states[state]...);
  };
  return updates;
}
template <class Rule, class Number, class Value, std::size_t... state>
consteval bool directs(std::index_sequence<state...>) {
  using Factors = decltype(factors_of<Rule, Number>(std::declval<const typename Rule::Coefficients&>(), Group{}));
  return requires(const Factors& f, Value weight, Value gradient, Value* states) {
    { Rule::direction(f, weight, gradient, states[state]...) } -> std::same_as<Value>;
  };
}

template <class Rule, class Number, class Value>
consteval bool computes() {
  if constexpr (!TensorRule<Rule>) {
    return moves<Rule, Number, Value>(std::make_index_sequence<Rule::states>{});
  } else if constexpr (Rule::keeps_direction) {
    return moves<Rule, Number, Value>(std::index_sequence<>{}) &&
           directs<Rule, Number, Value>(std::make_index_sequence<Rule::states - 1>{});
  } else {
    return moves<Rule, Number, Value>(std::make_index_sequence<Rule::states>{}) &&
           directs<Rule, Number, Value>(std::index_sequence<>{});
  }
}

template <class Rule>
concept HasCoefficients = requires(const Rule& rule, double learning_rate, long step) {
  typename Rule::Coefficients;
  { rule.coefficients(learning_rate, step) } -> std::same_as<typename Rule::Coefficients>;
}
&&std::is_trivially_copyable_v<typename Rule::Coefficients> &&
    sizeof(typename Rule::Coefficients) <= sizeof(StepCoefficients);

template <class Rule>
concept HasFactors = requires(const typename Rule::Coefficients& coefficients, const Group& group) {
  factors_of<Rule, float>(coefficients, group);
  factors_of<Rule, double>(coefficients, group);
};

template <class Rule>
concept HasNorms = requires(const typename Rule::Coefficients& coefficients, const Shape& shape, double norm) {
  { Rule::adapts(shape) } -> std::convertible_to<bool>;
  { Rule::ratio(coefficients, norm, norm) } -> std::convertible_to<double>;
};

}  // namespace detail

// A rule of elements or of tensors, as in the comment at the top of this file.
template <class Candidate>
concept OptimizerRule = requires {
  { Candidate::name } -> std::convertible_to<std::string_view>;
  { Candidate::states } -> std::convertible_to<int>;
}
&&detail::HasCoefficients<Candidate>&& detail::HasFactors<Candidate> &&
    (!TensorRule<Candidate> || detail::HasNorms<Candidate>)&&detail::computes<Candidate, float, simd::Pack<float>>() &&
    detail::computes<Candidate, double, simd::Pack<double>>() && detail::computes<Candidate, float, float>();

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
