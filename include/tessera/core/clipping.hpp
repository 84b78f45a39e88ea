// Clipping of gradients by their norm (docs/method.md, 4.8).
#pragma once

#include <cmath>

#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The factor of gradients whose squares add up to `square`: limit / (norm + 1e-6), at most 1.
[[nodiscard]] TESSERA_HOST_DEVICE inline double clipping_factor(double square, double limit) {
  return smaller(limit / (std::sqrt(square) + 1e-6), 1.0);
}

}  // namespace TESSERA_ABI
}  // namespace tessera
