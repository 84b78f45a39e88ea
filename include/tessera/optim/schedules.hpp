// Learning rate and momentum coefficient over training (docs/method.md, 4.6).
#pragma once

#include <cmath>
#include <numbers>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// Linear from 0 to `peak` over `warmup` epochs, then half a cosine to 0 at epoch `total`. `epoch` is fractional.
[[nodiscard]] inline double learning_rate(double peak, double epoch, double warmup, double total) {
  if (epoch < warmup) return peak * epoch / warmup;
  return peak * 0.5 * (1.0 + std::cos(std::numbers::pi * (epoch - warmup) / (total - warmup)));
}

// Rises from `start` to 1 along half a cosine over `total` epochs.
[[nodiscard]] inline double momentum_coefficient(double start, double epoch, double total) {
  return 1.0 - (1.0 - start) * 0.5 * (1.0 + std::cos(std::numbers::pi * epoch / total));
}

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
