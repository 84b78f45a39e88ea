// Masks, mask tokens and the loss of masked auto-encoding.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "tessera/core/masking.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

template <int patches, int kept, class Scalar, class Matmul, class Noise>
void order_patches(Backend<Scalar, Matmul>& backend, Noise noise_of, index images, int* keep, int* restore) {
  backend.for_pieces(images, 1, [&](index image, index, int) {
    std::array<float, patches> noise;
    for (int patch = 0; patch < patches; ++patch) noise[static_cast<std::size_t>(patch)] = noise_of(image, patch);
    for (int patch = 0; patch < patches; ++patch) {
      const int place = place_in_order(noise.data(), patches, patch);
      restore[image * patches + patch] = place;
      if (place < kept) keep[image * kept + place] = patch;
    }
  });
}

// A patch's pixels in their order, from its corner in the first plane of an image.
template <int channels, int size, int patch, class Scalar>
void interleave_patch(const Scalar* from, Scalar* to) {
  for (index y = 0; y < patch; ++y)
    for (index x = 0; x < patch; ++x)
      for (index c = 0; c < channels; ++c) *to++ = from[(c * size + y) * size + x];
}

// y = (x - mean) / sqrt(variance + epsilon), the variance unbiased.
template <int count, class Scalar>
void normalize_patch(const Scalar* x, Scalar* y) {
  using Sum = Accumulator<Scalar>;
  alignas(64) Sum values[count];
  const Sum mean = simd::reduce(
                       index{count}, [](auto a) { return a; }, x) /
                   static_cast<Sum>(count);
  simd::transform(
      index{count}, values, [mean](auto a) { return a - mean; }, x);
  const Sum squares = simd::reduce(
      index{count}, [](auto a) { return a * a; }, static_cast<const Sum*>(values));
  const Sum scale = Sum(1) / std::sqrt(squares / static_cast<Sum>(count - 1) + static_cast<Sum>(patch_epsilon));
  simd::transform(
      index{count}, y, [scale](auto a) { return a * scale; }, values);
}

}  // namespace detail

template <int patches, int kept, class Scalar, class Matmul>
void draw_mask(Backend<Scalar, Matmul>& backend, const StepNumber* number, index first_image, index images, int* keep,
               int* restore) {
  detail::order_patches<patches, kept>(backend, DrawnMaskNoise{number, first_image}, images, keep, restore);
}

template <int patches, int kept, class Scalar, class Matmul>
void mask_by_noise(Backend<Scalar, Matmul>& backend, const float* noise, index images, int* keep, int* restore) {
  detail::order_patches<patches, kept>(backend, GivenMaskNoise<patches>{noise}, images, keep, restore);
}

template <int extra, int patches, int kept, class Scalar, class Matmul, int width>
void unshuffle_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> x,
                      const Accumulator<Scalar>* mask_token, const Accumulator<Scalar>* positions, const int* restore,
                      Rows<Scalar, width> y) {
  constexpr index tokens = extra + patches;
  for_rows(backend, y.rows, width, [&](index row) {
    const index image = row / tokens, token = row % tokens;
    const index place = token < extra ? token - extra : restore[image * patches + token - extra];
    const auto assign = [&](const auto* from) {
      simd::transform(
          index{width}, y.row(row), [](auto a, auto b) { return a + b; }, from, positions + token * width);
    };
    if (place < kept)
      assign(x.row(image * (extra + kept) + extra + place));
    else
      assign(mask_token);
  });
}

template <int extra, int patches, int kept, class Scalar, class Matmul, int width>
void unshuffle_tokens_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, const int* keep,
                               const int* restore, Rows<Scalar, width> dx, Accumulator<Scalar>* d_mask_token) {
  using Sum = Accumulator<Scalar>;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  const index images = dy.rows / (extra + patches);
  Sum* const sums = backend.arena().template take<Sum>(images * width);
  const auto add = [](const auto* from, Sum* to) {
    simd::transform(
        index{width}, to, [](auto a, auto b) { return a + b; }, static_cast<const Sum*>(to), from);
  };
  backend.for_pieces(images, 1, [&](index image, index, int) {
    const Rows<const Scalar, width> from = dy.part(image * (extra + patches), extra + patches);
    const Rows<Scalar, width> to = dx.part(image * (extra + kept), extra + kept);
    std::memcpy(to.data, from.data, extra * width * sizeof(Scalar));
    for (index i = 0; i < kept; ++i)
      std::memcpy(to.row(extra + i), from.row(extra + keep[image * kept + i]), width * sizeof(Scalar));
    std::memset(sums + image * width, 0, width * sizeof(Sum));
    for (index patch = 0; patch < patches; ++patch)
      if (restore[image * patches + patch] >= kept) add(from.row(extra + patch), sums + image * width);
  });
  backend.compute([&] {
    std::memset(d_mask_token, 0, width * sizeof(Sum));
    for (index image = 0; image < images; ++image) add(sums + image * width, d_mask_token);
  });
}

template <int channels, int size, int patch, bool normalized, class Scalar, class Matmul>
void patch_targets(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels * size * size> images,
                   Rows<Scalar, channels * patch * patch> targets) {
  constexpr index grid = size / patch, values = channels * patch * patch;
  for_rows(backend, targets.rows, values, [&](index row) {
    const index number = row % (grid * grid);
    const Scalar* const corner = images.row(row / (grid * grid)) + number / grid * patch * size + number % grid * patch;
    detail::interleave_patch<channels, size, patch>(corner, targets.row(row));
    const Scalar* const plain = targets.row(row);
    if constexpr (normalized) detail::normalize_patch<values>(plain, targets.row(row));
  });
}

template <int extra, int patches, int kept, class Scalar, class Matmul, int width>
void masked_mse(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> prediction,
                Rows<const Scalar, width> targets, const int* restore, double weight, index total, double* loss,
                Rows<Scalar, width> d_prediction) {
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  double* const squares = backend.arena().template take<double>(targets.rows);
  constexpr index tokens = extra + patches;
  const double share = weight / (static_cast<double>(total) * width);
  for_rows(backend, prediction.rows, width, [&](index row) {
    const index patch = row / tokens * patches + row % tokens - extra;
    Scalar* const d = d_prediction.row(row);
    const bool removed = row % tokens >= extra && restore[patch] >= kept;
    if (row % tokens >= extra) squares[patch] = 0;
    if (!removed) {
      std::fill_n(d, width, Scalar{});
      return;
    }
    squares[patch] = static_cast<double>(simd::reduce(
        index{width}, [](auto a, auto b) { return (a - b) * (a - b); }, prediction.row(row), targets.row(patch)));
    const Accumulator<Scalar> scale = static_cast<Accumulator<Scalar>>(2 * share);
    simd::transform(
        index{width}, d, [scale](auto a, auto b) { return (a - b) * scale; }, prediction.row(row), targets.row(patch));
  });
  backend.compute([&] {
    double sum = 0;
    for (index patch = 0; patch < targets.rows; ++patch) sum += squares[patch];
    *loss += share * sum;
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
