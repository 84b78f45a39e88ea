// The schedule of the learning rate (docs/method.md, 4.6). Epochs are fractional. Settings of objectives have schedules
// of their own (objectives/settings.hpp).
#pragma once

#include <cmath>
#include <numbers>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The learning rate at `epoch`: linear from 0 to `peak` over `warmup` epochs, then half a cosine to 0 at epoch `total`.
[[nodiscard]] inline double learning_rate(double peak, double epoch, double warmup, double total) {
  if (epoch < warmup) return peak * epoch / warmup;
  return peak * 0.5 * (1.0 + std::cos(std::numbers::pi * (epoch - warmup) / (total - warmup)));
}

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
