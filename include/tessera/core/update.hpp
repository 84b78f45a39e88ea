// What optimizers hand to a backend's update passes: what changes from step to step, in memory of the backend.
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera::inline TESSERA_ABI {

// Adam's at step t = 1, 2, ...
struct AdamCoefficients {
  double learning_rate, weight_decay, beta1, beta2, epsilon;
  double correction1, correction2;  // 1 / (1 - beta1^t) and 1 / (1 - beta2^t)
};

// Of momentum SGD and LARS; trust is LARS's eta.
struct SgdCoefficients {
  double learning_rate, weight_decay, momentum, trust;
};

}  // namespace tessera::inline TESSERA_ABI
