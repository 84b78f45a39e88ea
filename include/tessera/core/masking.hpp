// Masked auto-encoding (MAE; docs/method.md, 10): the contract of the operations of both backends.
//
// Of the `patches` patches of an image, `kept` are kept and the others are removed. keep (images x kept) has the
// numbers of the kept patches in ascending order of their noise; restore (images x patches) has each patch's place in
// this order, so a patch is removed if its place is `kept` or larger. The sequence of an image has `extra` tokens (0,
// or 1 for the class token) in front of those of the patches.
//
// draw_mask<patches, kept>(backend, number, first_image, images, keep, restore): draws noise for the images
// [first_image, first_image + images) of the batch of all ranks and assigns keep and restore. The noise depends on
// *number (seed and step) and the number of the image alone; number is in memory of the backend.
//
// mask_by_noise<patches, kept>(backend, noise, images, keep, restore): the same for given noise (images x patches).
//
// unshuffle_tokens<extra, patches, kept>(backend, x, mask_token, positions, restore, y): x (images*(extra + kept) x
// width) has the extra tokens of an image, then its kept patches in the order of keep. Assigns y (images*(extra +
// patches) x width): the extra tokens, then all patches row by row, mask_token (width) for a removed patch; plus
// positions (extra + patches x width), the same for each image.
//
// unshuffle_tokens_backward<extra, patches, kept>(backend, dy, keep, restore, dx, d_mask_token): assigns dx, the
// gradient of x, and d_mask_token, the sum of dy over the removed patches in a fixed order.
//
// patch_targets<channels, size, patch, normalized>(backend, images, targets): assigns targets (images*patches x
// channels*patch^2), the pixels of each patch in the order (row, column, channel). If `normalized`, the mean of a patch
// is subtracted and the result divided by sqrt(variance + 1e-6), with the unbiased variance (docs/method.md, 10.3).
//
// masked_mse<extra, patches, kept>(backend, prediction, targets, restore, weight, total, loss, d_prediction): adds to
// *loss weight / total times the sum, over the removed patches, of the mean of (prediction - target)^2 over the values
// of a patch; total is the number of removed patches on all ranks. prediction has images*(extra + patches) rows,
// targets images*patches. Assigns the gradient to d_prediction, zero for extra tokens and kept patches; d_prediction
// may be prediction. loss is in memory of the backend.
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
