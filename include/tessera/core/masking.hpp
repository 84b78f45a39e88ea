// Masked auto-encoding (MAE; docs/method.md, 10): the contract of the operations that both backends have.
//
// Each image has `patches` patches, of which `kept` stay. keep (images x kept) holds the numbers of those that stay, in
// the order of their noise; restore (images x patches) holds each patch's place in that order. The patches with places
// from `kept` on are removed. An image's sequence has `extra` tokens (0 or 1: the class token), then those of patches.
//
// draw_mask<patches, kept>(backend, number, first_image, images, keep, restore): assigns both for noise that depends on
// *number (seed and step) and on the image's place in the batch of all ranks alone; the images are those from
// first_image on.
//
// mask_by_noise<patches, kept>(backend, noise, images, keep, restore): the same for given noise (images x patches).
//
// unshuffle_tokens<extra, patches, kept>(backend, x, mask_token, positions, restore, y): y (images*(extra + patches)
// rows) = the extra tokens of x (images*(extra + kept) rows), then, in the order of patches, the tokens of x or, where
// a patch is removed, mask_token; plus positions (extra + patches rows), the same for each image.
//
// unshuffle_tokens_backward<extra, patches, kept>(backend, dy, keep, restore, dx, d_mask_token): assigns both
// gradients. d_mask_token is the sum over the removed patches, in a fixed order.
//
// patch_targets<channels, size, patch, normalized>(backend, images, targets): targets (images*patches x
// channels*patch^2) = the pixels of each patch in the order (row, column, channel). If `normalized`, less their mean,
// divided by sqrt(variance + 1e-6) with the unbiased variance.
//
// masked_mse<extra, patches, kept>(backend, prediction, targets, restore, weight, total, loss, d_prediction): *loss
// grows by weight / total times the sum, over the removed patches, of the mean of (prediction - target)^2 over a
// patch's values; total is the number of removed patches of all ranks. d_prediction is assigned the gradient, zero for
// extra tokens and patches that are kept; it may be prediction. prediction has images*(extra + patches) rows, targets
// images*patches. loss is in memory of the backend.
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

inline constexpr double patch_epsilon = 1e-6;

}  // namespace TESSERA_ABI
}  // namespace tessera
