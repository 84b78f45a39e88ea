// The operations of a backend: the functions that layers and objectives call, found by their first argument. A concept
// lists those of one file, or two, of cpu/ and cuda/, with their contracts; cpu/cpu.hpp and cuda/cuda.hpp hold
// their backends to all of them. docs/writing-an-operation.md says how to add one.
//
// Rules of all operations:
// - Rows are row-major; (rows x columns) gives a shape. Pointers are to memory of the backend, `loss` and what changes
//   from step to step (temperature, rate, momentum, StepNumber) included.
// - Outputs are assigned; a name that says `add`, and *loss, are added to. A Rows without rows, or a null pointer where
//   the contract allows one, is an absent input or an output that is not wanted.
// - Outputs overlap no input, except where the contract says that one may be another.
// - While the backend is planning, an operation takes its temporaries from the arena and computes nothing.
// - Results do not depend on the number of threads, and every sum has one order.
#pragma once

#include <array>
#include <span>

#include "tessera/core/context.hpp"
#include "tessera/core/draws.hpp"
#include "tessera/core/info_nce.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/resample.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace operations {

// Types of the contracts. Statistics and gradients of parameters are sums.
template <class Backend, int columns>
using Input = Rows<const typename Backend::Scalar, columns>;
template <class Backend, int columns>
using Output = Rows<typename Backend::Scalar, columns>;
template <class Backend>
using Weight = Parameter<typename Backend::Scalar>;
template <class Backend>
using Sum = Accumulator<typename Backend::Scalar>;
template <class Backend, int columns>
using Sums = Rows<Sum<Backend>, columns>;
template <class Backend, int columns>
using GivenSums = Rows<const Sum<Backend>, columns>;

namespace archetype {

// Policies and a communicator to ask about; nothing is run.
struct Activation {
  template <class Value>
  static Value value(Value x) {
    return x;
  }
};
struct Rule {
  struct Coefficients {};
  static constexpr bool keeps_direction = false;
};
struct Group {};
struct Communicator {};

}  // namespace archetype

// linear.hpp. weight W (out x in), bias (out).
template <class Backend>
concept Linear = requires(Backend& backend, Input<Backend, 8> x, Weight<Backend> weight, Weight<Backend> bias,
                          Input<Backend, 4> residual, Output<Backend, 4> y, Input<Backend, 4> dy, Output<Backend, 8> dx,
                          Input<Backend, 8> given_before, Output<Backend, 8> activated, Output<Backend, 4> before,
                          Sum<Backend>* d_weight, Sum<Backend>* d_bias) {
  // y (rows x out) = x (rows x in) W^T + bias + residual. bias and residual may be absent.
  linear_forward(backend, x, weight, bias, residual, y);
  // before = x W^T + bias, y = Activation(before).
  linear_activation_forward<archetype::Activation>(backend, x, weight, bias, before, y);
  // dx = dy W.
  linear_input_gradient(backend, dy, weight, dx);
  // For y = Activation(before) W^T: d_before = (dy W) * Activation'(before), d_bias = its column sums (in), and
  // activated = Activation(before), which linear_weight_gradient needs and the forward pass did not keep.
  linear_activation_gradient<archetype::Activation>(backend, dy, weight, given_before, dx, activated, d_bias);
  // d_weight = dy^T x; d_bias = column sums of dy, unless it is null.
  linear_weight_gradient(backend, x, dy, d_weight, d_bias);
};

// activation.hpp.
template <class Backend>
concept Activation = requires(Backend& backend, Input<Backend, 8> x, Input<Backend, 8> dy, Output<Backend, 8> y,
                              Output<Backend, 8> dx) {
  // y = Activation(x).
  activation_forward<archetype::Activation>(backend, x, y);
  // dx = dy * Activation'(x).
  activation_backward<archetype::Activation>(backend, x, dy, dx);
};

// layer_norm.hpp. Normalization of each row; weight and bias (columns).
template <class Backend>
concept LayerNorm = requires(Backend& backend, Input<Backend, 8> x, const Sum<Backend>* weight,
                             const Sum<Backend>* bias, double epsilon, Sums<Backend, 2> statistics,
                             Output<Backend, 8> y, GivenSums<Backend, 2> given, Input<Backend, 8> dy,
                             Input<Backend, 8> residual, Output<Backend, 8> dx, Sum<Backend>* d_weight,
                             Sum<Backend>* d_bias) {
  // y = (x - mean) / sqrt(variance + epsilon) * weight + bias with the biased variance of each row; docs/method.md,
  // 2.2. statistics (rows x 2) receives mean and 1 / sqrt(variance + epsilon).
  layer_norm_forward(backend, x, weight, bias, epsilon, statistics, y);
  // dx = residual + the gradient through the normalization. residual may be absent; dx may be residual or dy.
  layer_norm_backward(backend, x, weight, given, dy, residual, dx, d_weight, d_bias);
};

// batch_norm.hpp. Normalization of each column over the rows of one view, on all ranks of the context's communicator;
// the context says how many views the rows hold. weight and bias (columns), both null for no affine map.
template <class Context, class Backend = typename Context::Backend>
concept BatchNorm = requires(Context& context, Backend& backend, Input<Backend, 8> x, const Sum<Backend>* weight,
                             const Sum<Backend>* bias, double epsilon, double momentum, Sum<Backend>* running_mean,
                             Sum<Backend>* running_variance, Sum<Backend>* batches, Sums<Backend, 16> statistics,
                             Output<Backend, 8> y, GivenSums<Backend, 16> given, Input<Backend, 8> dy,
                             Input<Backend, 8> residual, Output<Backend, 8> dx, Sum<Backend>* d_weight,
                             Sum<Backend>* d_bias) {
  // Training: y = (x - mean) / sqrt(variance + epsilon) * weight + bias with the mean and biased variance of each
  // column; docs/method.md, 2.8. A rank may have any number of rows, also none; fewer than 2 on all ranks together are
  // an Error. running_mean and running_variance (unbiased) move by `momentum` towards each view's in turn, unless that
  // is not finite; *batches counts one for each view. statistics (views x 2 columns) receives mean and
  // 1 / sqrt(variance + epsilon).
  batch_norm_forward(context, x, weight, bias, epsilon, momentum, running_mean, running_variance, batches, statistics,
                     y);
  // dx = residual + (weight scale) (dy - mean(dy) - x^ mean(dy x^)), means over the rows of the view on all ranks, x^
  // the normalized x. residual, weight, d_weight and d_bias may be absent; d_weight and d_bias are this rank's share of
  // the gradient. dx may be dy or residual.
  batch_norm_backward(context, x, weight, given, dy, residual, dx, d_weight, d_bias);
  // Evaluation: y = (x - running_mean) / sqrt(running_variance + epsilon) * weight + bias.
  batch_norm_evaluate(backend, x, weight, bias, epsilon, running_mean, running_variance, y);
};

// attention.hpp. qkv (images*tokens x 3 width) holds q, k and v, each with its heads side by side; docs/method.md, 2.3.
template <class Backend>
concept Attention = requires(Backend& backend, Input<Backend, 24> qkv, Output<Backend, 8> out,
                             Sums<Backend, 4> log_sums, Input<Backend, 8> given_out, GivenSums<Backend, 4> given_sums,
                             Input<Backend, 8> d_out, Output<Backend, 24> d_qkv, Output<Backend, 4> weights) {
  // out (images*tokens x width) = softmax(q k^T / sqrt(head width)) v for every head. log_sums (images*heads x tokens)
  // receives log(sum over keys of exp(score)) of each query, from which backward computes the weights again.
  attention_forward<4, 2>(backend, qkv, out, log_sums);
  // The gradient with respect to qkv; out and log_sums are those of attention_forward.
  attention_backward<4, 2>(backend, qkv, given_out, given_sums, d_out, d_qkv);
  // The softmax itself, for drawing: weights (images*heads*tokens x tokens).
  attention_weights<4, 2, 8>(backend, qkv, weights);
};

// tokens.hpp. From images to token sequences and from those to features; docs/method.md, 2.2. A planar image is
// (channels, size, size). An image has `tokens` tokens: a class token if there is one, then those of the grid.
template <class Backend>
concept Tokens = requires(Backend& backend, Input<Backend, 48> images, Output<Backend, 12> patches,
                          Input<Backend, 12> given_patches, Output<Backend, 48> to_images, Input<Backend, 8> x,
                          const Sum<Backend>* class_token, const Sum<Backend>* positions, Output<Backend, 8> y,
                          Output<Backend, 8> dx, Sum<Backend>* d_class_token, Sum<Backend>* d_positions, index token) {
  // patches (images*grid^2 x channels*patch^2): patch number row * grid + column, values in the order (channel, y, x).
  // Template arguments: channels, size, patch.
  patchify<3, 4, 2>(backend, images, patches);
  // The inverse.
  unpatchify<3, 4, 2>(backend, given_patches, to_images);
  // y (images*tokens x width) = class token and x (images*grid tokens x width), plus positions (tokens x width).
  // class_token (width) is null where there is none; positions may be null. Template arguments: grid tokens, tokens.
  assemble_tokens<4, 5>(backend, x, class_token, positions, y);
  // Its gradients; each output may be absent.
  assemble_tokens_backward<4, 5>(backend, x, dx, d_class_token, d_positions);
  // y (images x width) = the token of that number of every image; its gradient dx is zero at the others.
  take_token<5>(backend, x, token, y);
  take_token_backward<5>(backend, x, token, dx);
  // y (images x width) = the mean of every image's tokens but the first `skipped`; its gradient is zero at those.
  // Template arguments: tokens, skipped.
  mean_tokens<5, 1>(backend, x, y);
  mean_tokens_backward<5, 1>(backend, x, dx);
};

// kept_tokens.hpp. A subset of each image's tokens: keep (images x kept) holds the numbers of those that stay, each at
// most once for an image, in any order.
template <class Backend>
concept KeptTokens = requires(Backend& backend, Input<Backend, 8> x, const int* keep, Output<Backend, 8> y,
                              GivenSums<Backend, 8> positions, Sums<Backend, 8> d_positions) {
  // y (images*kept rows) = the kept rows of x (images*tokens rows). Template arguments: tokens, kept.
  gather_tokens<4, 2>(backend, x, keep, y);
  // Its gradient: y = x at the kept tokens, zero elsewhere.
  scatter_tokens<4, 2>(backend, x, keep, y);
  // y += positions, where an image of y has `extra` tokens and then the kept ones. positions has a row for each extra
  // token and then one for each token that can be kept. Template arguments: extra, kept.
  add_positions<1, 2>(backend, positions, keep, y);
  // Its gradient, zero where no image keeps the token.
  add_positions_backward<1, 2>(backend, x, keep, d_positions);
};

// positions.hpp. A position table for another grid of patches (core/resample.hpp): bicubic interpolation; rows in front
// of the grid, such as the class token's, are copied. extra: see cubic_taps.
template <class Backend>
concept Positions = requires(Backend& backend, GivenSums<Backend, 8> table, double extra, Sums<Backend, 8> y) {
  // y (rows of grid `to` x width) from table (rows of grid `from` x width). Template arguments: from, to.
  resample_positions<Grid{2, 2}, Grid{3, 3}>(backend, table, extra, y);
  // The gradient with respect to the table.
  resample_positions_backward<Grid{2, 2}, Grid{3, 3}>(backend, table, extra, y);
};

// conv.hpp. Convolutions as matrix products; inside the network an image is `pixels` rows of `channels` values.
template <class Backend>
concept Convolution = requires(Backend& backend, Input<Backend, 3> pixels, Output<Backend, 27> patches,
                               Input<Backend, 27> d_patches, Output<Backend, 3> d_pixels, Input<Backend, 48> images,
                               Output<Backend, 48> to_images) {
  // patches (one row per output pixel x channels*kernel^2), values in the order (channel, y, x) as weights are stored;
  // zero outside the image. Template arguments: channels, size, kernel, stride, padding.
  unfold<3, 4, 3, 2, 1>(backend, pixels, patches);
  // Its transpose: the sum of all patches' values that come from a pixel.
  fold<3, 4, 3, 2, 1>(backend, d_patches, d_pixels);
  // Planar images (channels, pixels) to rows of pixels, and back. Template arguments: channels, pixels.
  to_channels_last<3, 16>(backend, images, d_pixels);
  to_planar<3, 16>(backend, pixels, to_images);
};

// contrastive.hpp.
template <class Backend>
concept Contrastive = requires(Backend& backend, Input<Backend, 8> x, Output<Backend, 8> y, Sums<Backend, 1> norms,
                               GivenSums<Backend, 1> inverse_norms, Input<Backend, 8> q, Input<Backend, 8> k,
                               InfoNce term, const double* temperature, index first_label, index total, double* loss,
                               Output<Backend, 8> d_q) {
  // y = x / max(|x|, 1e-12) row by row; inverse norms (rows) receive the factor.
  normalize_rows(backend, x, y, norms);
  // dx = (dy - y (y . dy)) * inverse norm for the normalized rows y, here x; dx may be dy.
  normalize_rows_backward(backend, x, inverse_norms, x, y);
  // *loss grows by the cross entropy of softmax(q k^T / *temperature) with label first_label + n of row n, summed over
  // rows, times term's factor / total; docs/method.md, "Contrastive loss". q (n x columns) and k (keys x columns) have
  // unit rows; total is the number of queries on all ranks. d_q, if wanted, is the gradient with respect to q; k has
  // none.
  info_nce(backend, q, k, term, temperature, first_label, total, loss, d_q);
};

// nt_xent.hpp. The normalized temperature-scaled cross entropy of SimCLR (docs/method.md, "NT-Xent"). z (2n x columns)
// has the unit features of all ranks: view 1 of the n images, then view 2 in the same order. Row i is compared with all
// rows but itself; its positive p(i) is its image's other view (core/nt_xent.hpp):
//   loss = 1 / 2n * sum over all rows i of (log_sum_i - z_i . z_p(i) / tau),  tau = *temperature,
//   log_sum_i = log sum_(j != i) exp(z_i . z_j / tau).
// A rank has the rows [first, first + count) as anchors, which need not be all rows of a view.
template <class Backend>
concept NtXent = requires(Backend& backend, Input<Backend, 8> z, const double* temperature, index first,
                          Sums<Backend, 1> log_sums, GivenSums<Backend, 1> all_log_sums, double* loss,
                          Output<Backend, 8> d_z) {
  // log_sums (count) receives those of the anchors; *loss grows by the anchors' part.
  nt_xent_forward(backend, z, temperature, first, log_sums, loss);
  // d_z (count x columns) = the gradient of the whole loss with respect to the anchors' rows of z,
  //   d_z_i = 1 / (2n tau) * (sum_(j != i) (p_ij + p_ji) z_j - 2 z_p(i)),  p_ij = exp(z_i . z_j / tau - log_sum_i).
  // p_ji is the part of row i as a candidate of other ranks' anchors; it follows from the log sums of all rows (2n), so
  // ranks exchange log sums and no gradients.
  nt_xent_backward(backend, z, temperature, first, all_log_sums, d_z);
};

// cross_entropy.hpp.
template <class Backend>
concept CrossEntropy = requires(Backend& backend, Input<Backend, 8> logits, const int* labels, const double* smoothing,
                                const double* lambda, index total, double* loss, Output<Backend, 8> d_logits,
                                index count, const double* losses, double share, Sum<Backend>* kept) {
  // *loss grows by the cross entropy of softmax(logits) with soft targets, summed over rows, divided by total (the rows
  // of all ranks). The target of row n is lambda t(labels[n]) + (1 - lambda) t(labels[rows - 1 - n]), where t(label) is
  // smoothing / classes everywhere and 1 - smoothing more at the label: the partner of a row is that of mix_images
  // (docs/method.md, 9.2). *smoothing may be null for 0, *lambda for 1. d_logits, if wanted, is the gradient and may be
  // logits. A label outside [0, classes) makes the loss, and the gradient of its rows, NaN.
  cross_entropy(backend, logits, labels, smoothing, lambda, total, loss, d_logits);
  // Several losses at once, as they are when ranks have summed them: kept[i] = losses[i], and *loss = share times their
  // sum, the part of this rank.
  keep_losses(backend, count, losses, share, loss, kept);
};

// masking.hpp. Masked auto-encoding (MAE; docs/method.md, 10). Of each image's `patches` patches `kept` stay: keep
// (images x kept) holds their numbers in the order of their noise, restore (images x patches) each patch's place in
// that order; patches with places from `kept` on are removed. A sequence has `extra` tokens (0 or 1: the class token)
// and then those of patches.
template <class Backend>
concept Masking = requires(Backend& backend, const StepNumber* number, index first_image, index count, int* to_keep,
                           int* to_restore, const float* noise, const int* keep, const int* restore,
                           Input<Backend, 12> x, const Sum<Backend>* mask_token, const Sum<Backend>* positions,
                           Output<Backend, 12> y, Sum<Backend>* d_mask_token, Input<Backend, 48> images, double weight,
                           index total, double* loss) {
  // Assigns both for noise that depends on *number (seed and step) and on the image's place in the batch of all ranks
  // alone; the images are those from first_image on. Template arguments: patches, kept.
  draw_mask<4, 1>(backend, number, first_image, count, to_keep, to_restore);
  // The same for given noise (images x patches).
  mask_by_noise<4, 1>(backend, noise, count, to_keep, to_restore);
  // y (images*(extra + patches) rows) = the extra tokens of x (images*(extra + kept) rows), then, in the order of
  // patches, the tokens of x or, where a patch is removed, mask_token; plus positions (extra + patches rows). Template
  // arguments: extra, patches, kept.
  unshuffle_tokens<1, 4, 1>(backend, x, mask_token, positions, restore, y);
  // Its gradients; d_mask_token is the sum over the removed patches.
  unshuffle_tokens_backward<1, 4, 1>(backend, x, keep, restore, y, d_mask_token);
  // targets (images*patches x channels*patch^2) = the pixels of each patch in the order (row, column, channel); if
  // `normalized`, less their mean and divided by sqrt(variance + 1e-6) with the unbiased variance. Template arguments:
  // channels, size, patch, normalized.
  patch_targets<3, 4, 2, true>(backend, images, y);
  // *loss grows by weight / total times the sum, over the removed patches, of the mean of (prediction - target)^2 over
  // a patch's values; total is the number of removed patches of all ranks. prediction has images*(extra + patches)
  // rows, targets images*patches. d_prediction is the gradient, zero at extra tokens and kept patches; it may be
  // prediction. Template arguments: extra, patches, kept.
  masked_mse<1, 4, 1>(backend, x, x, restore, weight, total, loss, y);
};

// draws.hpp and mixing.hpp: random numbers that a step draws on the backend, so that a recorded step draws anew, and
// mixup and CutMix (docs/method.md, 3.11).
template <class Backend>
concept Mixes = requires(Backend& backend, const StepNumber* number, const double* mixup_alpha,
                         const double* cutmix_alpha, const double* probability, const double* switch_probability,
                         int size, Mixing* to_mixing, const Mixing* mixing, Input<Backend, 48> images,
                         Output<Backend, 48> mixed) {
  // *mixing = mixing_of(*number, the other settings, size), the same on all ranks.
  draw_mixing(backend, number, mixup_alpha, cutmix_alpha, probability, switch_probability, size, to_mixing);
  // mixed[n] = images[n] mixed with images[N - 1 - n] of the N images of this rank, as timm does. Planar images.
  // Template arguments: channels, size.
  mix_images<3, 4>(backend, mixing, images, mixed);
};

// draws.hpp and drop_path.hpp: drop path (docs/method.md, 9.4).
template <class Backend>
concept DropPath = requires(Backend& backend, const StepNumber* number, const double* rate, index first_image,
                            int depth, index images, Sum<Backend>* to_scales, const Sum<Backend>* scales,
                            Input<Backend, 8> branch, Input<Backend, 8> residual, Output<Backend, 8> y) {
  // scales (2 depth x images): row 2l is that of the attention branch of block l, row 2l + 1 that of its MLP branch;
  // each value is 0 or 1 / (1 - rate of the block). The images are those from first_image on of the batch of all ranks.
  draw_drop_path(backend, number, rate, first_image, depth, images, to_scales);
  // y = residual + scales[image] * branch. residual may be absent; y may be branch. Template argument: tokens.
  scale_branch<4>(backend, branch, scales, residual, y);
};

// update.hpp. Passes over flat buffers. *blocked != 0 says that the step's loss or gradient is not finite: updates then
// leave weights and states as they are. Updates assign *overflow = 1 if a weight or a state is not finite afterwards,
// and leave it as it is otherwise.
template <class Backend>
concept Updates = requires(Backend& backend, index count, const double* m, const Sum<Backend>* x,
                           Weight<Backend> average, const double* loss, double* to_blocked, const double* blocked,
                           const archetype::Rule::Coefficients* coefficients, const archetype::Group& group,
                           bool adapts, double* overflow, const Sum<Backend>* gradient, Weight<Backend> weight,
                           const std::array<Sum<Backend>*, 2>& states, std::span<const Entry> entries,
                           double* squares) {
  // average = *m average + (1 - *m) x.
  moving_average(backend, count, m, x, average);
  // *blocked = 1 if the loss or any of the values is not finite, else 0.
  check_finite(backend, count, x, loss, to_blocked);
  // An optimizer's rule of elements (optim/rule.hpp), in one pass over gradient, weight and states.
  update_elements<archetype::Rule>(backend, count, coefficients, group, blocked, overflow, gradient, weight, states);
  // An optimizer's rule of tensors (optim/rule.hpp) on one tensor: a pass for the direction and the norms, and one for
  // the update. Without `adapts` the ratio of norms is 1.
  update_tensor<archetype::Rule>(backend, count, coefficients, group, adapts, blocked, overflow, gradient, weight,
                                 states);
  // squares[i] = the sum of squares of entry i, in double; 0 for statistics.
  squared_norms(backend, entries, x, squares);
};

// clip.hpp. Clipping of gradients by their norm (docs/method.md, 4.8), in passes over flat buffers.
template <class Backend>
concept Clipping = requires(Backend& backend, index count, const Sum<Backend>* given, double* sum, double limit,
                            const double* square, const double* blocked, Sum<Backend>* values) {
  // *sum += the sum of the squares of all values, in double.
  add_squares(backend, count, given, sum);
  // values *= clipping_factor(*square, limit) (core/clipping.hpp). Nothing changes if the factor is 1 or *blocked is
  // not 0.
  clip(backend, count, limit, square, blocked, values);
};

}  // namespace operations

// A backend with all operations. BatchNorm, which sums over ranks, is asked of a Context.
template <class Candidate>
concept Operations =
    operations::Linear<Candidate> && operations::Activation<Candidate> && operations::LayerNorm<Candidate> &&
    operations::BatchNorm<Context<Candidate, operations::archetype::Communicator>> &&
    operations::Attention<Candidate> && operations::Tokens<Candidate> && operations::KeptTokens<Candidate> &&
    operations::Positions<Candidate> && operations::Convolution<Candidate> && operations::Contrastive<Candidate> &&
    operations::NtXent<Candidate> && operations::CrossEntropy<Candidate> && operations::Masking<Candidate> &&
    operations::Mixes<Candidate> && operations::DropPath<Candidate> && operations::Updates<Candidate> &&
    operations::Clipping<Candidate>;

}  // namespace TESSERA_ABI
}  // namespace tessera
