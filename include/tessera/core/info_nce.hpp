// The factor in front of a contrastive loss.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A mean of cross entropies of similarities / temperature counts `weight` times, and, as MoCo v3 has it, once more
// times the temperature, which then cancels in the gradient.
struct InfoNce {
  double weight = 1;
  bool times_temperature = false;

  // The factor of the loss, and that of its gradient with respect to the similarities.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr double of_loss(double temperature) const {
    return times_temperature ? weight * temperature : weight;
  }
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr double of_gradient(double temperature) const {
    return times_temperature ? weight : weight / temperature;
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
