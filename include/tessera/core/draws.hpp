// Random numbers of a training step: drop path, mixing of images, and masks. They depend on the seed and the number of
// the step alone; every backend computes them by these functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include "tessera/core/abi.hpp"
#include "tessera/core/random.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Mixup or CutMix of a batch with itself in reverse order: the partner of image i of N is image N - 1 - i
// (docs/method.md, 3.11).
struct Mixing {
  enum class Kind : std::int32_t { none, mixup, cutmix };

  double lambda = 1;  // weight of an image's own label in its target and, in mixup, of its own pixels
  Kind kind = Kind::none;
  std::int32_t y0 = 0, y1 = 0, x0 = 0, x1 = 0;  // CutMix takes rows [y0, y1) and columns [x0, x1) from the partner

  [[nodiscard]] TESSERA_HOST_DEVICE static Mixing mixup(double lambda) {
    Mixing mixing;
    mixing.lambda = lambda;
    mixing.kind = Kind::mixup;
    return mixing;
  }

  // A box of about (1 - lambda) size^2 pixels about (row, column), clipped to the image of size x size pixels. The
  // result's lambda is the exact fraction of pixels outside the box (Yun et al., arXiv 1905.04899).
  [[nodiscard]] TESSERA_HOST_DEVICE static Mixing cutmix(double lambda, int size, int row, int column) {
    const int side = static_cast<int>(size * std::sqrt(1.0 - lambda));
    const auto clip = [size](int at) { return at < 0 ? 0 : at > size ? size : at; };
    Mixing mixing;
    mixing.kind = Kind::cutmix;
    mixing.y0 = clip(row - side / 2);
    mixing.y1 = clip(row + side / 2);
    mixing.x0 = clip(column - side / 2);
    mixing.x1 = clip(column + side / 2);
    const double area = static_cast<double>(mixing.y1 - mixing.y0) * (mixing.x1 - mixing.x0);
    mixing.lambda = 1.0 - area / (static_cast<double>(size) * size);
    return mixing;
  }
};

// Settings of mixing, named as in timm's Mixup.
struct MixingOdds {
  double mixup_alpha = 0, cutmix_alpha = 0;  // lambda ~ Beta(alpha, alpha); 0 switches the operation off
  double probability = 1;                    // probability that a batch is mixed
  double switch_probability = 0.5;           // probability of CutMix if both are on
};

namespace detail {

// Uniform in (0, 1), with 32 bits.
[[nodiscard]] TESSERA_HOST_DEVICE inline double open_uniform(Random& random) {
  return (static_cast<double>(random.bits()) + 0.5) * 0x1p-32;
}

}  // namespace detail

// A draw of Beta(alpha, alpha), alpha > 0, from two uniform numbers and without rejection: a function of Student's t
// with 2 alpha degrees of freedom (docs/method.md, 3.11; Bailey, "Polar generation of random variates with the
// t-distribution", 1994; Devroye, "Random variate generation in one line of code", 1996).
[[nodiscard]] TESSERA_HOST_DEVICE inline double draw_beta(double alpha, Random& random) {
  const double power = std::pow(detail::open_uniform(random), 1.0 / alpha);
  const double cosine = std::cos(2.0 * std::numbers::pi * detail::open_uniform(random));
  return 0.5 * (1.0 + cosine / std::sqrt(cosine * cosine + power / (1.0 - power)));
}

// Draws how a batch of images of size x size pixels is mixed in step `number`. The order of the draws is that of timm's
// Mixup: mixed or not, mixup or CutMix, lambda, centre of the box.
[[nodiscard]] TESSERA_HOST_DEVICE inline Mixing mixing_of(const StepNumber& number, const MixingOdds& odds, int size) {
  Random random(number.seed, Purpose::mixing, static_cast<std::uint32_t>(number.step), 0);
  const bool mixup = odds.mixup_alpha > 0, cutmix = odds.cutmix_alpha > 0;
  const bool mixed = detail::open_uniform(random) < odds.probability;
  const bool switched = detail::open_uniform(random) < odds.switch_probability;
  if (!mixed || !(mixup || cutmix)) return {};
  const bool use_cutmix = cutmix && (!mixup || switched);
  const double lambda = draw_beta(use_cutmix ? odds.cutmix_alpha : odds.mixup_alpha, random);
  if (!use_cutmix) return Mixing::mixup(lambda);
  const int row = static_cast<int>(random.below(static_cast<std::uint32_t>(size)));
  const int column = static_cast<int>(random.below(static_cast<std::uint32_t>(size)));
  return Mixing::cutmix(lambda, size, row, column);
}

// The factor of a residual branch of block `block` of `depth` for a draw u of [0, 1): 0 or 1 / (1 - r), with
// r = rate * block / (depth - 1) and 0 <= rate < 1 (docs/method.md, 9.4).
[[nodiscard]] TESSERA_HOST_DEVICE inline double drop_path_scale(double rate, int block, int depth, double u) {
  const double r = depth > 1 ? rate * block / (depth - 1) : 0.0;
  return std::floor(1.0 - r + u) / (1.0 - r);
}

// The drop path stream of image `image` of the batch of all ranks. Successive uniform() are the u of block 0's
// attention, block 0's MLP, block 1's attention, ...
[[nodiscard]] TESSERA_HOST_DEVICE inline Random drop_path_stream(const StepNumber& number, std::int64_t image) {
  return {number.seed, Purpose::drop_path, static_cast<std::uint32_t>(number.step), static_cast<std::uint32_t>(image)};
}

// The noise of a patch, uniform in [0, 1): number `patch` of the stream of image `image` of the batch of all ranks
// (docs/method.md, 10.1).
[[nodiscard]] TESSERA_HOST_DEVICE inline float mask_noise(const StepNumber& number, std::int64_t image, int patch) {
  Random random(number.seed, Purpose::mask, static_cast<std::uint32_t>(number.step), static_cast<std::uint32_t>(image));
  random.start_at(static_cast<std::uint32_t>(patch / 4));
  for (int before = 0; before < patch % 4; ++before) static_cast<void>(random.bits());
  return random.uniform();
}

// The place of noise[i] in the ascending order of `count` numbers, from 0; equal numbers keep their order.
[[nodiscard]] TESSERA_HOST_DEVICE inline int place_in_order(const float* noise, int count, int i) {
  int place = 0;
  for (int j = 0; j < count; ++j) place += noise[j] < noise[i] || (noise[j] == noise[i] && j < i) ? 1 : 0;
  return place;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
