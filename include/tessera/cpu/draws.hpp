// Random numbers of a training step, drawn by the backend: a recorded step draws anew each time.
#pragma once

#include "tessera/core/draws.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// *mixing = mixing_of(*number, the other settings, size). All pointers are to memory of the backend. Ranks draw the
// same.
template <class Scalar, class Matmul>
void draw_mixing(Backend<Scalar, Matmul>& backend, const StepNumber* number, const double* mixup_alpha,
                 const double* cutmix_alpha, const double* probability, const double* switch_probability, int size,
                 Mixing* mixing) {
  if (backend.planning()) return;
  *mixing = mixing_of(*number, {*mixup_alpha, *cutmix_alpha, *probability, *switch_probability}, size);
}

// Assigns scales (2 depth x images): row 2 l is that of the attention branch of block l, row 2 l + 1 that of its MLP
// branch; each value is 0 or 1 / (1 - r_l) (docs/method.md, 9.4). The images are those from first_image on of the batch
// of all ranks; number and rate are in memory of the backend.
template <class Scalar, class Matmul>
void draw_drop_path(Backend<Scalar, Matmul>& backend, const StepNumber* number, const double* rate, index first_image,
                    int depth, index images, Scalar* scales) {
  if (backend.planning()) return;
  backend.pool().for_pieces(images, 64, [&](index first, index last, int) {
    for (index image = first; image < last; ++image) {
      Random random = drop_path_stream(*number, first_image + image);
      for (int branch = 0; branch < 2 * depth; ++branch)
        scales[branch * images + image] =
            static_cast<Scalar>(drop_path_scale(*rate, branch / 2, depth, static_cast<double>(random.uniform())));
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
