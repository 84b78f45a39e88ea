// Starting distributions of weights, as policies of Linear and the convolutions (docs/method.md, 2.6).
#pragma once

#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// std::sqrt is not constexpr in C++20. value >= 0.
[[nodiscard]] constexpr double square_root(double value) {
  double root = value > 1 ? value : 1;
  for (int step = 0; step < 200; ++step) root = 0.5 * (root + value / root);
  return root;
}

// U(-a, a), a = sqrt(6 / (fan_in + fan_out)); biases 0. `parts` > 1: the weight stacks that many matrices, each of
// which is initialised on its own (q, k and v).
template <int parts = 1>
struct XavierUniform {
  static constexpr Initial weight(int in, int out) { return Initial::uniform(square_root(6.0 / (in + out / parts))); }
  static constexpr Initial bias(int) { return Initial::constant(0); }
};

// U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases: what PyTorch gives a layer that nobody initialises.
struct FanInUniform {
  static constexpr Initial weight(int in, int) { return Initial::uniform(1.0 / square_root(in)); }
  static constexpr Initial bias(int in) { return Initial::uniform(1.0 / square_root(in)); }
};

// N(0, (numerator / denominator)^2) for weights; biases 0. Of classifiers.
template <int numerator, int denominator>
struct Normal {
  static constexpr Initial weight(int, int) { return Initial::normal(static_cast<double>(numerator) / denominator); }
  static constexpr Initial bias(int) { return Initial::constant(0); }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
