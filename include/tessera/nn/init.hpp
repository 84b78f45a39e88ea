// Distributions of initial values, policies of Linear and Conv2d (docs/method.md, 2.6).
#pragma once

#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The square root by Newton's method, for constant expressions: std::sqrt is not constexpr in C++20. value >= 0.
[[nodiscard]] constexpr double square_root(double value) {
  double root = value > 1 ? value : 1;
  for (int step = 0; step < 200; ++step) root = 0.5 * (root + value / root);
  return root;
}

// Weights U(-a, a), a = sqrt(6 / (fan_in + fan_out)); biases 0. The weight consists of `parts` stacked matrices (q, k
// and v), and fan_out is that of one of them.
template <int parts = 1>
struct XavierUniform {
  static constexpr Initial weight(int in, int out) { return Initial::uniform(square_root(6.0 / (in + out / parts))); }
  static constexpr Initial bias(int) { return Initial::constant(0); }
};

// Weights and biases U(-a, a), a = 1 / sqrt(fan_in): PyTorch's default.
struct FanInUniform {
  static constexpr Initial weight(int in, int) { return Initial::uniform(1.0 / square_root(in)); }
  static constexpr Initial bias(int in) { return Initial::uniform(1.0 / square_root(in)); }
};

// Weights N(0, (numerator / denominator)^2); biases 0. For classifiers (docs/method.md, 9.1).
template <int numerator, int denominator>
struct Normal {
  static constexpr Initial weight(int, int) { return Initial::normal(static_cast<double>(numerator) / denominator); }
  static constexpr Initial bias(int) { return Initial::constant(0); }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
