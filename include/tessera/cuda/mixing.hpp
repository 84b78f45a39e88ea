// Mixup and CutMix.
#pragma once

#include "tessera/core/draws.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int mixing_threads = 256;

// A vector to a thread. The partner is read only if there is one.
template <int channels, int size, class Scalar>
__global__ void __launch_bounds__(mixing_threads)
    mix_images_kernel(index images, const Mixing* mixing, const Scalar* from, Scalar* mixed) {
  constexpr int values = channels * size * size, width = vector_width<Scalar>(values), vectors = values / width;
  const index number = static_cast<index>(blockIdx.x) * mixing_threads + threadIdx.x;
  if (number >= images * vectors) return;
  const index image = number / vectors;
  const int first = static_cast<int>(number % vectors) * width;
  float value[width];
  load<width>(from + image * values + first, value);
  const Mixing how = *mixing;
  if (how.kind != Mixing::Kind::none) {
    float other[width];
    load<width>(from + (images - 1 - image) * values + first, other);
    const float keep = static_cast<float>(how.lambda), take = static_cast<float>(1.0 - how.lambda);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      const int y = (first + i) / size % size, x = (first + i) % size;
      if (how.kind == Mixing::Kind::mixup)
        value[i] = keep * value[i] + take * other[i];
      else if (y >= how.y0 && y < how.y1 && x >= how.x0 && x < how.x1)
        value[i] = other[i];
    }
  }
  store<width>(reinterpret_cast<Scalar*>(reinterpret_cast<Vector<Scalar, width>*>(mixed) + number), value);
}

}  // namespace detail

template <int channels, int size, class Scalar>
void mix_images(Backend<Scalar>& backend, const Mixing* mixing, Rows<const Scalar, channels * size * size> images,
                Rows<Scalar, channels * size * size> mixed) {
  constexpr int values = channels * size * size;
  launch(backend, blocks_for(images.size() / vector_width<Scalar>(values), detail::mixing_threads),
         detail::mixing_threads, 0, detail::mix_images_kernel<channels, size, Scalar>, images.rows, mixing, images.data,
         mixed.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
