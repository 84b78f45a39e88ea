// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101; docs/method.md, 4.1).
#pragma once

#include <cmath>
#include <string_view>

#include "tessera/core/math.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The coefficients of AdamW and LAMB in step t = 1, 2, ...
struct AdamCoefficients {
  double learning_rate, weight_decay, beta1, beta2, epsilon;
  double correction1, correction2;  // 1 / (1 - beta1^t) and 1 / (1 - beta2^t)
  double root_correction2;          // the square root of correction2

  [[nodiscard]] static AdamCoefficients at(long step, double learning_rate, double weight_decay, double beta1,
                                           double beta2, double epsilon) {
    const double correction1 = 1.0 / (1.0 - std::pow(beta1, step)), correction2 = 1.0 / (1.0 - std::pow(beta2, step));
    return {learning_rate, weight_decay, beta1, beta2, epsilon, correction1, correction2, std::sqrt(correction2)};
  }
};

// Adam's moments: moving averages of the gradient and of its square. other1 = 1 - beta1, other2 = 1 - beta2.
template <class Number>
struct AdamMoments {
  Number beta1, other1, beta2, other2;

  constexpr explicit AdamMoments(const AdamCoefficients& c)
      : beta1(static_cast<Number>(c.beta1)),
        other1(static_cast<Number>(1.0 - c.beta1)),
        beta2(static_cast<Number>(c.beta2)),
        other2(static_cast<Number>(1.0 - c.beta2)) {}

  template <class Value>
  [[gnu::always_inline]] constexpr void move(Value gradient, Value& moment1, Value& moment2) const {
    moment1 = beta1 * moment1 + other1 * gradient;
    moment2 = beta2 * moment2 + other2 * (gradient * gradient);
  }
};

// Every trained tensor decays, biases and weights of norms too, unless its group sets decay = 0.
struct AdamW {
  static constexpr std::string_view name = "adamw";
  static constexpr int states = 2;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  using Coefficients = AdamCoefficients;
  [[nodiscard]] Coefficients coefficients(double learning_rate, long step) const {
    return AdamCoefficients::at(step, learning_rate, weight_decay, beta1, beta2, epsilon);
  }

  template <class Number>
  struct Factors {
    AdamMoments<Number> moments;
    Number rate, decay, inverse_bias, epsilon;
  };
  template <class Number>
  [[nodiscard]] static constexpr Factors<Number> factors(const Coefficients& c, const Group& group) {
    const double rate = c.learning_rate * group.rate;
    return {AdamMoments<Number>(c), static_cast<Number>(rate * c.correction1),
            static_cast<Number>(1.0 - rate * (c.weight_decay * group.decay)), static_cast<Number>(c.root_correction2),
            static_cast<Number>(c.epsilon)};
  }

  template <class Factors, class Value>
  [[gnu::always_inline]] static constexpr void update(const Factors& f, Value& weight, Value gradient, Value& moment1,
                                                      Value& moment2) {
    f.moments.move(gradient, moment1, moment2);
    weight = weight * f.decay - f.rate * moment1 / (math::square_root(moment2) * f.inverse_bias + f.epsilon);
  }
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
