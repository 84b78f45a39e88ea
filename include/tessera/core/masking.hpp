// The noise that orders the patches of an image for masked auto-encoding (operations.hpp).
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/draws.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The two sources of noise: called with the number of an image of this rank and of a patch.
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

// Added to the variance of a patch's pixels.
inline constexpr double patch_epsilon = 1e-6;

}  // namespace TESSERA_ABI
}  // namespace tessera
