// LARS: momentum SGD with a rate for each tensor (You, Gitman, Ginsburg, arXiv 1708.03888; docs/method.md, 4.3).
#pragma once

#include <string_view>

#include "tessera/core/layout.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/optim/sgd.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The direction d = gradient + weight_decay * weight is multiplied by trust * |weight| / |d|. Tensors of at most one
// dimension have neither decay nor this factor. trust is the eta of docs/method.md.
struct Lars {
  static constexpr std::string_view name = "lars";
  static constexpr int states = 1;
  static constexpr bool keeps_direction = false;
  double weight_decay = 1e-6, momentum = 0.9, trust = 0.001;

  using Coefficients = MomentumCoefficients;
  [[nodiscard]] Coefficients coefficients(double learning_rate, long) const {
    return {learning_rate, weight_decay, momentum, trust};
  }

  [[nodiscard]] static constexpr bool adapts(const Shape& shape) { return shape.rank > 1; }
  // trust * |weight| / |direction|, or 1 if a norm is zero.
  [[nodiscard]] static constexpr double ratio(const Coefficients& c, double weight_norm, double direction_norm) {
    return weight_norm > 0 && direction_norm > 0 ? c.trust * (weight_norm / direction_norm) : 1.0;
  }

  template <class Number>
  [[nodiscard]] static constexpr MomentumFactors<Number> factors(const Coefficients& c, const Group& group,
                                                                 double ratio) {
    return {c, group, ratio};
  }

  template <class Factors, class Value>
  [[nodiscard, gnu::always_inline]] static constexpr Value direction(const Factors& f, Value weight, Value gradient) {
    return gradient + f.decay * weight;
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
