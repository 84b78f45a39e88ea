// SGD with momentum and coupled weight decay, without dampening and Nesterov term (docs/method.md, 4.2).
#pragma once

#include <string_view>

#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The coefficients of SGD and LARS in one step.
struct MomentumCoefficients {
  double learning_rate, weight_decay, momentum;
  double trust;  // 1 for SGD; eta of LARS
};

// velocity <- momentum * velocity + trust * (gradient + weight decay * weight); weight <- weight - rate * velocity.
template <class Number>
struct MomentumFactors {
  Number rate, momentum, trust, decay;  // decay = trust * weight decay

  constexpr MomentumFactors(const MomentumCoefficients& c, const Group& group, double ratio)
      : rate(static_cast<Number>(c.learning_rate * group.rate)),
        momentum(static_cast<Number>(c.momentum)),
        trust(static_cast<Number>(ratio)),
        decay(static_cast<Number>(ratio * (c.weight_decay * group.decay))) {}

  template <class Value>
  [[gnu::always_inline]] constexpr void move(Value& weight, Value gradient, Value& velocity) const {
    velocity = trust * gradient + momentum * velocity;
    if (decay != 0) velocity = decay * weight + velocity;
    weight = weight - rate * velocity;
  }
};

// The rule of SGD with momentum.
struct Sgd {
  static constexpr std::string_view name = "sgd";
  static constexpr int states = 1;
  double weight_decay = 0, momentum = 0.9;

  using Coefficients = MomentumCoefficients;
  [[nodiscard]] Coefficients coefficients(double learning_rate, long) const {
    return {learning_rate, weight_decay, momentum, 1};
  }

  template <class Number>
  [[nodiscard]] static constexpr MomentumFactors<Number> factors(const Coefficients& c, const Group& group) {
    return {c, group, c.trust};
  }

  template <class Factors, class Value>
  [[gnu::always_inline]] static constexpr void update(const Factors& f, Value& weight, Value gradient,
                                                      Value& velocity) {
    f.move(weight, gradient, velocity);
  }
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
