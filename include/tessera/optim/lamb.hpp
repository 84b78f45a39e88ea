// LAMB: Adam with a rate for each tensor (You et al., arXiv 1904.00962; docs/method.md, 4.4).
#pragma once

#include <string_view>

#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/optim/adamw.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// direction = Adam's bias-corrected step + weight_decay * weight; weight <- weight - rate |weight| / |direction| *
// direction. Gradients are not clipped, unlike in timm's variant.
struct Lamb {
  static constexpr std::string_view name = "lamb";
  static constexpr int states = 3;  // two moments and the direction
  static constexpr bool keeps_direction = true;
  double weight_decay = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6;

  using Coefficients = AdamCoefficients;
  [[nodiscard]] Coefficients coefficients(double learning_rate, long step) const {
    return AdamCoefficients::at(step, learning_rate, weight_decay, beta1, beta2, epsilon);
  }

  [[nodiscard]] static constexpr bool adapts(const Shape&) { return true; }
  // |weight| / |direction|, or 1 if a norm is zero.
  [[nodiscard]] static constexpr double ratio(const Coefficients&, double weight_norm, double direction_norm) {
    return weight_norm > 0 && direction_norm > 0 ? weight_norm / direction_norm : 1.0;
  }

  template <class Number>
  struct Factors {
    AdamMoments<Number> moments;
    Number rate, decay, correction1, correction2, epsilon;
  };
  template <class Number>
  [[nodiscard]] static constexpr Factors<Number> factors(const Coefficients& c, const Group& group, double ratio) {
    return {AdamMoments<Number>(c),
            static_cast<Number>(c.learning_rate * group.rate * ratio),
            static_cast<Number>(c.weight_decay * group.decay),
            static_cast<Number>(c.correction1),
            static_cast<Number>(c.correction2),
            static_cast<Number>(c.epsilon)};
  }

  template <class Factors, class Value>
  [[nodiscard, gnu::always_inline]] static constexpr Value direction(const Factors& f, Value weight, Value gradient,
                                                                     Value& moment1, Value& moment2) {
    f.moments.move(gradient, moment1, moment2);
    return moment1 * f.correction1 / (math::square_root(moment2 * f.correction2) + f.epsilon) + f.decay * weight;
  }
  template <class Factors, class Value>
  [[gnu::always_inline]] static constexpr void update(const Factors& f, Value& weight, Value direction) {
    weight = weight - f.rate * direction;
  }
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
