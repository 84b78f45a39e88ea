// The factor of a contrastive loss, InfoNCE.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// loss = factor * mean over the rows of the cross entropy of similarities / tau. factor = weight, or weight * tau if
// times_temperature; then tau cancels in the gradient, as in MoCo v3 (docs/method.md, 7.2).
struct InfoNce {
  double weight = 1;
  bool times_temperature = false;

  // of_loss: the factor. of_gradient: factor / tau, that of the gradient with respect to the similarities.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr double of_loss(double temperature) const {
    return times_temperature ? weight * temperature : weight;
  }
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr double of_gradient(double temperature) const {
    return times_temperature ? weight : weight / temperature;
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
