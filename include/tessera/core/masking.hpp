// The noise that orders the patches of an image for masked auto-encoding (operations.hpp).
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/draws.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Noise of a patch of an image of this rank: drawn (mask_noise of core/draws.hpp), or given.
struct DrawnMaskNoise {
  const StepNumber* number;
  index first_image;

  [[nodiscard]] TESSERA_HOST_DEVICE float operator()(index image, int patch) const {
    return mask_noise(*number, first_image + image, patch);
  }
};
template <int patches>
struct GivenMaskNoise {
  const float* noise;

  [[nodiscard]] TESSERA_HOST_DEVICE float operator()(index image, int patch) const {
    return noise[image * patches + patch];
  }
};

inline constexpr double patch_epsilon = 1e-6;  // added to the variance of normalised targets

}  // namespace TESSERA_ABI
}  // namespace tessera
