// Schedules of the learning rate and the momentum coefficient (docs/method.md, 4.6). Epochs are fractional.
#pragma once

#include <cmath>
#include <numbers>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The learning rate of MAE: linear from 0 to `peak` over `warmup` epochs, then half a cosine to `floor` at epoch
// `total`.
[[nodiscard]] inline double rate_with_floor(double peak, double floor, double epoch, double warmup, double total) {
  if (epoch < warmup) return peak * epoch / warmup;
  return floor + (peak - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * (epoch - warmup) / (total - warmup)));
}

// The learning rate of MoCo v3: linear from 0 to `peak` over `warmup` epochs, then half a cosine to 0 at epoch `total`.
[[nodiscard]] inline double learning_rate(double peak, double epoch, double warmup, double total) {
  return rate_with_floor(peak, 0, epoch, warmup, total);
}

// The momentum coefficient of MoCo v3: from `start` to 1 along half a cosine over `total` epochs.
[[nodiscard]] inline double momentum_coefficient(double start, double epoch, double total) {
  return 1.0 - (1.0 - start) * 0.5 * (1.0 + std::cos(std::numbers::pi * epoch / total));
}

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
