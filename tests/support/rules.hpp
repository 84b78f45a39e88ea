// Optimizers as users write them, for tests of the rules' contract.
#pragma once

#include <cmath>
#include <string_view>

#include "tessera/optim/groups.hpp"

namespace tessera::test {

// Lion (Chen et al., arXiv 2302.06675): the sign of a moving average, with decoupled decay.
struct Lion {
  static constexpr std::string_view name = "lion";
  static constexpr int states = 1;
  double weight_decay = 0, beta1 = 0.9, beta2 = 0.99;

  struct Coefficients {
    double learning_rate, weight_decay, beta1, beta2;
  };
  [[nodiscard]] Coefficients coefficients(double learning_rate, long) const {
    return {learning_rate, weight_decay, beta1, beta2};
  }

  template <class Number>
  struct Factors {
    Number rate, decay, beta1, other1, beta2, other2;
  };
  template <class Number>
  static constexpr Factors<Number> factors(const Coefficients& c, const optim::Group& group) {
    const auto number = [](double value) { return static_cast<Number>(value); };
    const double rate = c.learning_rate * group.rate;
    return {number(rate),    number(1 - rate * c.weight_decay * group.decay),
            number(c.beta1), number(1 - c.beta1),
            number(c.beta2), number(1 - c.beta2)};
  }

  template <class Factors, class Value>
  static constexpr void update(const Factors& f, Value& weight, Value gradient, Value& momentum) {
    const Value mixed = f.beta1 * momentum + f.other1 * gradient;
    const Value step = mixed > 0 ? Value{} + f.rate : Value{} - f.rate;
    weight = weight * f.decay - (mixed == 0 ? Value{} : step);
    momentum = f.beta2 * momentum + f.other2 * gradient;
  }

  // One element by the definition.
  void define(double rate, double decay, double& weight, double gradient, double& momentum) const {
    const double mixed = beta1 * momentum + (1 - beta1) * gradient;
    weight -= rate * ((mixed > 0 ? 1 : mixed < 0 ? -1 : 0) + decay * weight);
    momentum = beta2 * momentum + (1 - beta2) * gradient;
  }
};

// The gradient of each tensor, divided by its norm; no state.
struct NormalizedSgd {
  static constexpr std::string_view name = "normalized_sgd";
  static constexpr int states = 0;
  static constexpr bool keeps_direction = false;

  struct Coefficients {
    double learning_rate;
  };
  [[nodiscard]] static Coefficients coefficients(double learning_rate, long) { return {learning_rate}; }

  [[nodiscard]] static constexpr bool adapts(const Shape&) { return true; }
  [[nodiscard]] static constexpr double ratio(const Coefficients&, double, double direction_norm) {
    return direction_norm > 0 ? 1 / direction_norm : 1;
  }

  template <class Number>
  static constexpr Number factors(const Coefficients& c, const optim::Group& group, double ratio) {
    return static_cast<Number>(c.learning_rate * group.rate * ratio);
  }
  template <class Number, class Value>
  static constexpr Value direction(Number, Value, Value gradient) {
    return gradient;
  }
  template <class Number, class Value>
  static constexpr void update(Number rate, Value& weight, Value gradient) {
    weight = weight - rate * gradient;
  }
};

}  // namespace tessera::test
