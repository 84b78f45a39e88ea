// Signed sizes and offsets, and arithmetic on them.
#pragma once

#include <cstddef>
#include <type_traits>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

using index = std::ptrdiff_t;

// Divides and rounds up. divisor > 0.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index divide_up(index value, index divisor) {
  return (value + divisor - 1) / divisor;
}

// Not std::min and std::max: those names are macros in some users' sources.
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
