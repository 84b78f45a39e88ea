// Convolution by matrix products on unfolded patches; channels last inside the network.
#pragma once

#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <int channels, int size, int kernel, int stride, int padding, class Scalar, class Matmul>
void unfold(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels> pixels,
            Rows<Scalar, channels * kernel * kernel> patches) {
  constexpr index out = (size + 2 * padding - kernel) / stride + 1;
  for_rows(backend, patches.rows, channels * kernel * kernel, [&](index row) {
    const index image = row / (out * out), y0 = row / out % out * stride - padding, x0 = row % out * stride - padding;
    Scalar* const to = patches.row(row);
    for (index ky = 0; ky < kernel; ++ky)
      for (index kx = 0; kx < kernel; ++kx) {
        const index y = y0 + ky, x = x0 + kx;
        const bool inside = y >= 0 && y < size && x >= 0 && x < size;
        const Scalar* const from = inside ? pixels.row((image * size + y) * size + x) : nullptr;
        for (index c = 0; c < channels; ++c) to[(c * kernel + ky) * kernel + kx] = inside ? from[c] : Scalar{};
      }
  });
}

template <int channels, int size, int kernel, int stride, int padding, class Scalar, class Matmul>
void fold(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels * kernel * kernel> d_patches,
          Rows<Scalar, channels> d_pixels) {
  constexpr index out = (size + 2 * padding - kernel) / stride + 1;
  for_rows(backend, d_pixels.rows, channels * kernel * kernel, [&](index row) {
    const index image = row / (size * size), y = row / size % size, x = row % size;
    Accumulator<Scalar> sums[channels]{};
    for (index ky = 0; ky < kernel; ++ky)
      for (index kx = 0; kx < kernel; ++kx) {
        const index oy = y + padding - ky, ox = x + padding - kx;
        if (oy < 0 || ox < 0 || oy % stride != 0 || ox % stride != 0 || oy / stride >= out || ox / stride >= out)
          continue;
        const Scalar* const from = d_patches.row((image * out + oy / stride) * out + ox / stride);
        for (index c = 0; c < channels; ++c)
          sums[c] += static_cast<Accumulator<Scalar>>(from[(c * kernel + ky) * kernel + kx]);
      }
    for (index c = 0; c < channels; ++c) d_pixels.row(row)[c] = static_cast<Scalar>(sums[c]);
  });
}

template <int channels, int pixels, class Scalar, class Matmul>
void to_channels_last(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels * pixels> images,
                      Rows<Scalar, channels> y) {
  for_rows(backend, images.rows, channels * pixels, [&](index image) {
    for (index p = 0; p < pixels; ++p)
      for (index c = 0; c < channels; ++c) y.row(image * pixels + p)[c] = images.row(image)[c * pixels + p];
  });
}

template <int channels, int pixels, class Scalar, class Matmul>
void to_planar(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels> x,
               Rows<Scalar, channels * pixels> images) {
  for_rows(backend, images.rows, channels * pixels, [&](index image) {
    for (index p = 0; p < pixels; ++p)
      for (index c = 0; c < channels; ++c) images.row(image)[c * pixels + p] = x.row(image * pixels + p)[c];
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
