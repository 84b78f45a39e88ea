// Random numbers of a training step, drawn by the backend: a recorded step draws anew each time.
#pragma once

#include "tessera/core/draws.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <class Scalar, class Matmul>
void draw_mixing(Backend<Scalar, Matmul>& backend, const StepNumber* number, const double* mixup_alpha,
                 const double* cutmix_alpha, const double* probability, const double* switch_probability, int size,
                 Mixing* mixing) {
  backend.compute([&] {
    *mixing = mixing_of(*number, {*mixup_alpha, *cutmix_alpha, *probability, *switch_probability}, size);
  });
}

template <class Scalar, class Matmul>
void draw_drop_path(Backend<Scalar, Matmul>& backend, const StepNumber* number, const double* rate, index first_image,
                    int depth, index images, Accumulator<Scalar>* scales) {
  backend.for_pieces(images, 64, [&](index first, index last, int) {
    for (index image = first; image < last; ++image) {
      Random random = drop_path_stream(*number, first_image + image);
      for (int branch = 0; branch < 2 * depth; ++branch)
        scales[branch * images + image] = static_cast<Accumulator<Scalar>>(
            drop_path_scale(*rate, branch / 2, depth, static_cast<double>(random.uniform())));
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
