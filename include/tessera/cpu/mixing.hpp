// Mixup and CutMix.
#pragma once

#include <algorithm>

#include "tessera/core/draws.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <int channels, int size, class Scalar, class Matmul>
void mix_images(Backend<Scalar, Matmul>& backend, const Mixing* mixing,
                Rows<const Scalar, channels * size * size> images, Rows<Scalar, channels * size * size> mixed) {
  backend.compute([&] {
    const Accumulator<Scalar> keep = static_cast<Accumulator<Scalar>>(mixing->lambda),
                              take = static_cast<Accumulator<Scalar>>(1.0 - mixing->lambda);
    for_rows(backend, images.rows, channels * size * size, [&](index image) {
      const Scalar* const own = images.row(image);
      const Scalar* const partner = images.row(images.rows - 1 - image);
      Scalar* const to = mixed.row(image);
      if (mixing->kind == Mixing::Kind::mixup) {
        simd::transform(
            index{channels * size * size}, to, [=](auto a, auto b) { return keep * a + take * b; }, own, partner);
        return;
      }
      std::copy_n(own, channels * size * size, to);
      if (mixing->kind == Mixing::Kind::none) return;
      for (index channel = 0; channel < channels; ++channel)
        for (index y = mixing->y0; y < mixing->y1; ++y) {
          const index row = (channel * size + y) * size;
          std::copy(partner + row + mixing->x0, partner + row + mixing->x1, to + row + mixing->x0);
        }
    });
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
