// Types of activations, sums and parameters (docs/method.md, 1.3).
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Brain floating point: the upper 16 bits of a float. A storage type; arithmetic is done in float.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  TESSERA_HOST_DEVICE explicit bf16(float value) {
    const std::uint32_t all = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (all + 0x7FFFu + (all >> 16 & 1u)) >> 16;
    bits = static_cast<std::uint16_t>((all & 0x7FFFFFFFu) > 0x7F800000u ? all >> 16 | 0x40u : rounded);
  }
  TESSERA_HOST_DEVICE explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

// A tensor or flat buffer of master values, and its copy in the type Low that matrix products read; `copy` may be null.
// Converts to the pointer to the master values.
template <class Low>
struct MasterAndCopy {
  float* master = nullptr;
  Low* copy = nullptr;

  constexpr MasterAndCopy() = default;
  TESSERA_HOST_DEVICE constexpr MasterAndCopy(float* values, Low* low = nullptr) : master(values), copy(low) {}

  TESSERA_HOST_DEVICE constexpr operator float*() const { return master; }
  TESSERA_HOST_DEVICE constexpr MasterAndCopy operator+(index offset) const {
    return {master + offset, copy == nullptr ? nullptr : copy + offset};
  }
};

namespace detail {

template <class Scalar>
struct ScalarTraits {
  using Accumulator = Scalar;
  using Parameter = Scalar*;
};
template <>
struct ScalarTraits<bf16> {
  using Accumulator = float;
  using Parameter = MasterAndCopy<bf16>;
};

}  // namespace detail

// For activations of type Scalar: the type of sums, statistics, losses, gradients of parameters and master weights.
template <class Scalar>
using Accumulator = typename detail::ScalarTraits<Scalar>::Accumulator;

// The form in which a layer receives a parameter: a pointer for float and double, MasterAndCopy for bf16.
template <class Scalar>
using Parameter = typename detail::ScalarTraits<Scalar>::Parameter;

// The same for a function that only reads it: pointers to constants are taken as well.
template <class Scalar>
using GivenParameter = std::conditional_t<std::is_pointer_v<Parameter<Scalar>>, const Scalar*, Parameter<Scalar>>;

// The values of a parameter that matrix products read.
template <class Scalar>
[[nodiscard]] inline const Scalar* product_operand(const Scalar* values) {
  return values;
}
template <class Low>
[[nodiscard]] inline const Low* product_operand(MasterAndCopy<Low> values) {
  return values.copy;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
