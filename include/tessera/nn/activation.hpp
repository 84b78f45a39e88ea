// Activation functions: policies of Mlp, and layers of their own in heads.
#pragma once

#include <numbers>

#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// An activation gives its value and, at once, its value and slope; both for packs and for scalars.
template <class Value>
struct ValueAndSlope {
  Value value, slope;
};

// x Phi(x), exact: PyTorch's F.gelu. Not the tanh form.
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

// The tanh form, x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2: PyTorch's F.gelu(approximate="tanh").
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
