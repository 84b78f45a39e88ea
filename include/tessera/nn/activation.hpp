// Activation functions: policies of nn::Mlp, and layers of heads (nn::Activation).
#pragma once

#include <numbers>

#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The result of value_and_slope(x): f(x) and f'(x). An activation function has value(x) and value_and_slope(x), each
// for packs and for scalars.
template <class Value>
struct ValueAndSlope {
  Value value, slope;
};

// GELU in its exact form, x Phi(x), as PyTorch's F.gelu (docs/method.md, 2.2).
struct Gelu {
  template <class Value>
  [[gnu::always_inline]] static constexpr Value value(Value x) {
    return x * math::normal(x).cdf;
  }
  template <class Value>
  [[gnu::always_inline]] static constexpr ValueAndSlope<Value> value_and_slope(Value x) {
    const auto [cdf, pdf] = math::normal(x);
    return {x * cdf, cdf + x * pdf};
  }
};

// GELU in its tanh form, x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, as PyTorch's F.gelu(approximate="tanh").
struct GeluTanh {
  template <class Value>
  [[gnu::always_inline]] static constexpr Value value(Value x) {
    return value_and_slope(x).value;
  }
  template <class Value>
  [[gnu::always_inline]] static constexpr ValueAndSlope<Value> value_and_slope(Value x) {
    using Scalar = decltype(simd::scalar_of(x));
    constexpr Scalar c = Scalar(2 * 0.7978845608028654), cubic = Scalar(0.044715);
    const Value sigmoid = Scalar(1) / (Scalar(1) + math::exp(-c * (x + cubic * x * x * x)));
    return {x * sigmoid, sigmoid + x * sigmoid * (Scalar(1) - sigmoid) * c * (Scalar(1) + Scalar(3) * cubic * x * x)};
  }
};

// max(x, 0); the slope at 0 is 0.
struct Relu {
  template <class Value>
  [[gnu::always_inline]] static constexpr Value value(Value x) {
    return x > 0 ? x : Value{};
  }
  template <class Value>
  [[gnu::always_inline]] static constexpr ValueAndSlope<Value> value_and_slope(Value x) {
    return {value(x), x > 0 ? Value{} + 1 : Value{}};
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
