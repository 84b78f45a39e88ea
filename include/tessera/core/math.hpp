// Element-wise mathematical functions of packs (CPU) and scalars (CPU and devices).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/simd.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace math {

template <class Value>
inline constexpr bool is_float_pack = std::is_same_v<Value, simd::Pack<float>>;
template <class Value>
inline constexpr bool is_double_pack = std::is_same_v<Value, simd::Pack<double>>;

// f of every element of a pack.
template <class Pack, class Function>
[[gnu::always_inline]] inline Pack each_lane(Pack x, Function f) {
  Pack y;
  for (index lane = 0; lane < simd::lanes<decltype(simd::scalar_of(x))>; ++lane) y[lane] = f(x[lane]);
  return y;
}

// The square root, correctly rounded.
template <class Value>
[[gnu::always_inline]] constexpr inline Value square_root(Value x) {
  if constexpr (is_float_pack<Value> || is_double_pack<Value>) {
    return each_lane(x, [](auto value) { return std::sqrt(value); });
  } else {
    return std::sqrt(x);
  }
}

// e^x. Float packs: the relative error is below 2e-7 for x in [-87, 88]; the result is 0 below this range, infinity
// above it, and NaN for NaN.
template <class Value>
[[gnu::always_inline]] constexpr inline Value exp(Value x) {
  if constexpr (is_float_pack<Value>) {
    constexpr float log2_e = std::numbers::log2e_v<float>, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Value shifted = x * log2_e + rounder;
    const Value n = shifted - rounder;
    const Value r = (x - n * ln2_high) - n * ln2_low;
    Value p = r * 0.0013814601115882397f + 0.008368715643882751f;  // minimax of (e^r - 1 - r) / r^2
    p = p * r + 0.04166838899254799f;
    p = p * r + 0.1666652113199234f;
    p = p * r + 0.4999999403953552f;
    p = p * r * r + r + 1.0f;
    const auto exponent = std::bit_cast<simd::Pack<std::uint32_t>>(shifted) << 23;
    const Value scaled = std::bit_cast<Value>(std::bit_cast<simd::Pack<std::uint32_t>>(p) + exponent);
    const Value bounded = x < -87.0f ? Value{} : scaled;
    const Value overflown = x > 88.0f ? Value{} + HUGE_VALF : bounded;
    return x == x ? overflown : x;
  } else if constexpr (is_double_pack<Value>) {
    return each_lane(x, [](double value) { return std::exp(value); });
  } else {
    return std::exp(x);
  }
}

// Standard normal distribution: cdf(x) = (1 + erf(x / sqrt 2)) / 2, pdf(x) = e^(-x^2/2) / sqrt(2 pi).
template <class Value>
struct Normal {
  Value cdf, pdf;
};

// bell(x) = e^(-x^2/2) and reciprocal(x) = 1 / x. On a CUDA device the floats use the instructions ex2.approx and
// rcp.approx: their relative error is at most 2^-22, and results below the normal range are zero (PTX ISA).
template <class Value>
[[gnu::always_inline]] constexpr inline Value bell(Value x) {
  return exp(x * x * -0.5f);
}
template <class Value>
[[gnu::always_inline]] constexpr inline Value reciprocal(Value x) {
  return 1.0f / x;
}
TESSERA_HOST_DEVICE inline float bell(float x) {
  const float exponent = x * x * (-0.5f * std::numbers::log2e_v<float>);
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(exponent));
  return result;
#else
  return std::exp2(exponent);
#endif
}
TESSERA_HOST_DEVICE inline float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// cdf and pdf of the standard normal distribution at x. Float packs (CPU) and floats (CUDA): cdf(-|x|) is e^(-x^2/2)
// times a polynomial in 1 / (1 + 0.4 |x|), fitted to e^(x^2/2) erfc(|x| / sqrt 2) / 2 with the relative error 8e-8, so
// that small values keep their relative accuracy. The absolute error on a CUDA device is below 1e-6.
template <class Value>
[[gnu::always_inline]] constexpr inline Normal<Value> normal(Value x) {
  if constexpr (is_float_pack<Value> || std::is_same_v<Value, float>) {
    const Value distance = x < 0.0f ? -x : x;
    const Value density = bell(x);
    const Value u = reciprocal(1.0f + 0.4f * distance);
    Value p = u * -0.03960091085948985f + 0.20060100881236725f;
    p = p * u + -0.37368293514574763f;
    p = p * u + 0.25097310749796764f;
    p = p * u + -0.012385560182210952f;
    p = p * u + 0.1584164720204473f;
    p = p * u + 0.15578663597685594f;
    p = p * u + 0.15990418234536144f;
    p = p * u + -1.1987410424242673e-05f;
    const Value tail = density * p;
    return {x < 0.0f ? tail : 1.0f - tail,
            density * (std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>)};
  } else if constexpr (is_double_pack<Value>) {
    return {each_lane(x, [](double value) { return 0.5 * std::erfc(-value / std::numbers::sqrt2); }),
            exp(x * x * -0.5) * (std::numbers::inv_sqrtpi / std::numbers::sqrt2)};
  } else {
    return {Value(0.5) * std::erfc(-x / std::numbers::sqrt2_v<Value>),
            std::exp(x * x * Value(-0.5)) * (std::numbers::inv_sqrtpi_v<Value> / std::numbers::sqrt2_v<Value>)};
  }
}

// The bits of a float or double, and those of its exponent: all of these are set in NaN and infinity, and in no other
// value. Tests read them, since under -ffast-math a compiler may remove comparisons that only NaN fails.
template <class Scalar>
using Bits = std::conditional_t<sizeof(Scalar) == 4, std::uint32_t, std::uint64_t>;
template <class Scalar>
inline constexpr Bits<Scalar> exponent_bits = sizeof(Scalar) == 4 ? static_cast<Bits<Scalar>>(0x7F800000u)
                                                                  : static_cast<Bits<Scalar>>(0x7FF0000000000000ull);

// True if none of the `count` values (float or double) is NaN or infinite.
template <class Scalar>
[[nodiscard]] bool all_finite(const Scalar* values, index count) {
  constexpr Bits<Scalar> exponent = exponent_bits<Scalar>;
  Bits<Scalar> found = 0;
  for (index i = 0; i < count; ++i)
    found |= static_cast<Bits<Scalar>>((std::bit_cast<Bits<Scalar>>(values[i]) & exponent) == exponent);
  return found == 0;
}

// The elements of a pack that are NaN or infinite.
template <class Scalar>
[[nodiscard, gnu::always_inline]] inline simd::Mask<Scalar> not_finite(simd::Pack<Scalar> x) {
  return (std::bit_cast<simd::Pack<Bits<Scalar>>>(x) & exponent_bits<Scalar>) == exponent_bits<Scalar>;
}

}  // namespace math
}  // namespace TESSERA_ABI
}  // namespace tessera
