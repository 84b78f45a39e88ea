// Signed sizes and offsets, and arithmetic on them.
#pragma once

#include <cstddef>
#include <type_traits>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

using index = std::ptrdiff_t;

// value / divisor, rounded up. value >= 0, divisor > 0.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index divide_up(index value, index divisor) {
  return (value + divisor - 1) / divisor;
}

// Minimum and maximum. std::min and std::max are not used in headers: Windows defines macros of these names.
template <class Value>
[[nodiscard]] TESSERA_HOST_DEVICE constexpr Value smaller(Value a, std::type_identity_t<Value> b) {
  return b < a ? b : a;
}
template <class Value>
[[nodiscard]] TESSERA_HOST_DEVICE constexpr Value larger(Value a, std::type_identity_t<Value> b) {
  return a < b ? b : a;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
