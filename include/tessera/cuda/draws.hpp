// Random numbers of a training step, drawn by the device: a recorded step draws anew each time.
#pragma once

#include "tessera/core/draws.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int drop_path_threads = 128;

// (Number is a parameter so that a header may define it.)
template <class Number>
__global__ void draw_mixing_kernel(const Number* number, const double* mixup_alpha, const double* cutmix_alpha,
                                   const double* probability, const double* switch_probability, int size,
                                   Mixing* mixing) {
  *mixing = mixing_of(*number, {*mixup_alpha, *cutmix_alpha, *probability, *switch_probability}, size);
}

// An image to a thread.
template <class Element>
__global__ void __launch_bounds__(drop_path_threads)
    draw_drop_path_kernel(const StepNumber* number, const double* rate, index first_image, int depth, index images,
                          Element* scales) {
  const index image = static_cast<index>(blockIdx.x) * drop_path_threads + threadIdx.x;
  if (image >= images) return;
  Random random = drop_path_stream(*number, first_image + image);
  for (int branch = 0; branch < 2 * depth; ++branch)
    scales[branch * images + image] =
        static_cast<Element>(drop_path_scale(*rate, branch / 2, depth, static_cast<double>(random.uniform())));
}

}  // namespace detail

template <class Scalar>
void draw_mixing(Backend<Scalar>& backend, const StepNumber* number, const double* mixup_alpha,
                 const double* cutmix_alpha, const double* probability, const double* switch_probability, int size,
                 Mixing* mixing) {
  launch(backend, dim3(1), 1, 0, detail::draw_mixing_kernel<StepNumber>, number, mixup_alpha, cutmix_alpha, probability,
         switch_probability, size, mixing);
}

template <class Scalar>
void draw_drop_path(Backend<Scalar>& backend, const StepNumber* number, const double* rate, index first_image,
                    int depth, index images, Accumulator<Scalar>* scales) {
  launch(backend, blocks_for(images, detail::drop_path_threads), detail::drop_path_threads, 0,
         detail::draw_drop_path_kernel<Accumulator<Scalar>>, number, rate, first_image, depth, images, scales);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
