// Learning rate and momentum coefficient over training (docs/method.md, Schedules).
#pragma once

#include <cmath>
#include <numbers>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// Linear from 0 to `peak` over `warmup` epochs, then half a cosine to `floor` at epoch `total`: the schedule of MAE.
// `epoch` is fractional.
[[nodiscard]] inline double rate_with_floor(double peak, double floor, double epoch, double warmup, double total) {
  if (epoch < warmup) return peak * epoch / warmup;
  return floor + (peak - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * (epoch - warmup) / (total - warmup)));
}

// Linear from 0 to `peak` over `warmup` epochs, then half a cosine to 0 at epoch `total`. `epoch` is fractional.
[[nodiscard]] inline double learning_rate(double peak, double epoch, double warmup, double total) {
  return rate_with_floor(peak, 0, epoch, warmup, total);
}

// Rises from `start` to 1 along half a cosine over `total` epochs.
[[nodiscard]] inline double momentum_coefficient(double start, double epoch, double total) {
  return 1.0 - (1.0 - start) * 0.5 * (1.0 + std::cos(std::numbers::pi * epoch / total));
}

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
