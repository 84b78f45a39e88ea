// What optimizers hand to a backend's update kernels.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera::inline TESSERA_ABI {

// What Adam's update needs at step t = 1, 2, ...
struct AdamCoefficients {
  double learning_rate, weight_decay, beta1, beta2, epsilon;
  long step;
};

}  // namespace tessera::inline TESSERA_ABI
