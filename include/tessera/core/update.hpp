// What optimizers hand to a backend's update passes: which elements, and what changes from step to step, in memory of
// the backend.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Elements [first, last) of the flat buffers, which this rank updates; their optimizer state starts at `state` in
// buffers of its own.
struct Part {
  index first, last, state;
};

// Adam's at step t = 1, 2, ...
struct AdamCoefficients {
  double learning_rate, weight_decay, beta1, beta2, epsilon;
  double correction1, correction2;  // 1 / (1 - beta1^t) and 1 / (1 - beta2^t)
};

// Of momentum SGD and LARS; trust is LARS's eta.
struct SgdCoefficients {
  double learning_rate, weight_decay, momentum, trust;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
