// Convolution by matrix products on unfolded patches; channels last inside the network.
#pragma once

#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

// An image is made of `units` pieces of `count` vectors of `width`, which follow one another in memory. What makes a
// piece out of vectors that lie apart must keep it in registers: no more than that many values.
inline constexpr int most_unit_values = 128;

// The widest vector, of at most 16 bytes, that divides `values` and of which `count` are held at once.
template <class Scalar>
[[nodiscard]] constexpr int unit_width(int values, int count) {
  int width = vector_width<Scalar>(values);
  while (width > 1 && width * count > most_unit_values) width /= 2;
  return width;
}

// Threads, one to a unit, whose units fill no more than 32 KiB of shared memory where possible.
template <class Scalar, class Unit>
[[nodiscard]] constexpr int unit_threads() {
  constexpr int bytes = Unit::count * Unit::width * static_cast<int>(sizeof(Scalar));
  static_assert(bytes * warp_size <= 160 * 1024,
                "tessera: this convolution's kernel is too large for the CUDA backend");
  int threads = 4 * warp_size;
  while (threads > warp_size && threads * bytes > 32 * 1024) threads /= 2;
  return threads;
}

// A row of an unfolded image, or as many of its channels as one vector holds: kernel^2 vectors of pixels, interleaved.
template <class Scalar, int channels, int size, int kernel, int stride, int padding>
struct UnfoldedUnit {
  static constexpr int count = kernel * kernel, width = unit_width<Scalar>(channels, count);
  static constexpr int out = (size + 2 * padding - kernel) / stride + 1, groups = channels / width;
  static constexpr int units = out * out * groups, from_values = size * size * channels;

  static __device__ void make(const Scalar* pixels, int unit, Vector<Scalar, width> (&to)[count]) {
    using Moved = Vector<Scalar, width>;
    const auto* const from = reinterpret_cast<const Moved*>(pixels) + unit % groups;
    const int x0 = unit / groups % out * stride - padding, y0 = unit / (groups * out) * stride - padding;
    TESSERA_UNROLL
    for (int tap = 0; tap < count; ++tap) {
      const int y = y0 + tap / kernel, x = x0 + tap % kernel;
      const bool inside = y >= 0 && y < size && x >= 0 && x < size;
      const Moved moved = inside ? from[(y * size + x) * groups] : Moved{};
      TESSERA_UNROLL
      for (int i = 0; i < width; ++i) to[(i * count + tap) / width].values[(i * count + tap) % width] = moved.values[i];
    }
  }
};

// As many pixels, all channels of each, as one vector of a plane holds.
template <class Scalar, int channels, int pixels>
struct PixelUnit {
  static constexpr int count = channels, width = unit_width<Scalar>(pixels, channels);
  static constexpr int units = pixels / width, from_values = channels * pixels;

  static __device__ void make(const Scalar* planes, int unit, Vector<Scalar, width> (&to)[count]) {
    using Moved = Vector<Scalar, width>;
    const auto* const from = reinterpret_cast<const Moved*>(planes) + unit;
    TESSERA_UNROLL
    for (int c = 0; c < channels; ++c) {
      const Moved moved = from[c * units];
      TESSERA_UNROLL
      for (int i = 0; i < width; ++i)
        to[(i * channels + c) / width].values[(i * channels + c) % width] = moved.values[i];
    }
  }
};

// Every thread makes a unit, the block puts them into shared memory and copies that to where they belong, one after the
// other, in vectors of neighbouring threads.
template <class Unit, class Scalar>
__global__ void __launch_bounds__(unit_threads<Scalar, Unit>()) make_units_kernel(const Scalar* from, Scalar* to) {
  constexpr int threads = unit_threads<Scalar, Unit>(), count = Unit::count, width = Unit::width;
  constexpr int wide = vector_width<Scalar>(Unit::units * count * width);
  constexpr auto blocks = static_cast<unsigned>(divide_up(Unit::units, threads));
  using Part = Vector<Scalar, width>;
  using Wide = Vector<Scalar, wide>;
  auto* const room = reinterpret_cast<Part*>(shared_memory());
  const index image = blockIdx.x / blocks;
  const int first = static_cast<int>(blockIdx.x % blocks) * threads, unit = first + static_cast<int>(threadIdx.x);
  if (unit < Unit::units) {
    Part parts[count];
    Unit::make(from + image * Unit::from_values, unit, parts);
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) room[static_cast<int>(threadIdx.x) * count + i] = parts[i];
  }
  __syncthreads();
  const int made = (Unit::units - first < threads ? Unit::units - first : threads) * count * width / wide;
  const auto* const vectors = reinterpret_cast<const Wide*>(room);
  auto* const out = reinterpret_cast<Wide*>(to + (image * Unit::units + first) * count * width);
  for (int i = static_cast<int>(threadIdx.x); i < made; i += threads) out[i] = vectors[i];
}

template <class Unit, class Scalar>
void make_units(Backend<Scalar>& backend, index images, const Scalar* from, Scalar* to) {
  constexpr int threads = unit_threads<Scalar, Unit>();
  constexpr index bytes = index{threads} * Unit::count * Unit::width * static_cast<index>(sizeof(Scalar));
  launch(backend, dim3(static_cast<unsigned>(images * divide_up(Unit::units, threads))), threads, bytes,
         make_units_kernel<Unit, Scalar>, from, to);
}

inline constexpr int fold_threads = 256, fold_tile = 8;

// Pixels that share patches, and so many of their channels at a time that a warp reads whole sectors, to a block: what
// it reads again is in the first-level cache.
template <int channels, int size, int kernel, int stride, int padding, class Scalar>
__global__ void __launch_bounds__(fold_threads) fold_kernel(const Scalar* d_patches, Scalar* d_pixels) {
  constexpr int out = (size + 2 * padding - kernel) / stride + 1;
  constexpr auto chunks = static_cast<int>(divide_up(channels, warp_size));
  constexpr auto chunk = static_cast<int>(divide_up(channels, chunks)),
                 tiles = static_cast<int>(divide_up(size, fold_tile));
  const index image = blockIdx.x / (chunks * tiles * tiles);
  const int block = static_cast<int>(blockIdx.x % (chunks * tiles * tiles));
  const int y0 = block / (chunks * tiles) * fold_tile, x0 = block / chunks % tiles * fold_tile;
  for (int i = static_cast<int>(threadIdx.x); i < fold_tile * fold_tile * chunk; i += fold_threads) {
    const int channel = block % chunks * chunk + i % chunk;
    const int y = y0 + i / chunk / fold_tile, x = x0 + i / chunk % fold_tile;
    if (channel >= channels || y >= size || x >= size) continue;
    const Scalar* const from = d_patches + (image * out * out * channels + channel) * kernel * kernel;
    const int down = y + padding, right = x + padding;
    float sum = 0;
    for (int ky = down % stride; ky < kernel && ky <= down; ky += stride)
      for (int kx = right % stride; kx < kernel && kx <= right; kx += stride) {
        const int row = (down - ky) / stride, column = (right - kx) / stride;
        if (row >= out || column >= out) continue;
        sum += static_cast<float>(from[(row * out + column) * channels * kernel * kernel + ky * kernel + kx]);
      }
    d_pixels[((image * size + y) * size + x) * channels + channel] = static_cast<Scalar>(sum);
  }
}

// The reverse of PixelUnit::make, a unit to a thread.
template <class Unit, class Scalar>
__global__ void __launch_bounds__(unit_threads<Scalar, Unit>()) to_planar_kernel(const Scalar* x, Scalar* images) {
  constexpr int threads = unit_threads<Scalar, Unit>(), channels = Unit::count, width = Unit::width;
  constexpr auto blocks = static_cast<unsigned>(divide_up(Unit::units, threads));
  using Moved = Vector<Scalar, width>;
  const index image = blockIdx.x / blocks;
  const int unit = static_cast<int>(blockIdx.x % blocks * threads + threadIdx.x);
  if (unit >= Unit::units) return;
  const auto* const from = reinterpret_cast<const Moved*>(x) + (image * Unit::units + unit) * channels;
  auto* const to = reinterpret_cast<Moved*>(images) + image * Unit::units * channels + unit;
  Moved parts[channels];
  TESSERA_UNROLL
  for (int c = 0; c < channels; ++c) parts[c] = from[c];
  TESSERA_UNROLL
  for (int c = 0; c < channels; ++c) {
    Moved moved;
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i)
      moved.values[i] = parts[(i * channels + c) / width].values[(i * channels + c) % width];
    to[c * Unit::units] = moved;
  }
}

}  // namespace detail

template <int channels, int size, int kernel, int stride, int padding, class Scalar>
void unfold(Backend<Scalar>& backend, Rows<const Scalar, channels> pixels,
            Rows<Scalar, channels * kernel * kernel> patches) {
  if constexpr (kernel == 1 && stride == 1 && padding == 0)
    backend.copy(pixels.size(), pixels.data, patches.data);
  else
    detail::make_units<detail::UnfoldedUnit<Scalar, channels, size, kernel, stride, padding>>(
        backend, pixels.rows / (size * size), pixels.data, patches.data);
}

template <int channels, int size, int kernel, int stride, int padding, class Scalar>
void fold(Backend<Scalar>& backend, Rows<const Scalar, channels * kernel * kernel> d_patches,
          Rows<Scalar, channels> d_pixels) {
  constexpr index tiles = divide_up(size, detail::fold_tile);
  constexpr index blocks = tiles * tiles * divide_up(channels, warp_size);
  if constexpr (kernel == 1 && stride == 1 && padding == 0)
    backend.copy(d_pixels.size(), d_patches.data, d_pixels.data);
  else
    launch(backend, dim3(static_cast<unsigned>(d_pixels.rows / (size * size) * blocks)), detail::fold_threads, 0,
           detail::fold_kernel<channels, size, kernel, stride, padding, Scalar>, d_patches.data, d_pixels.data);
}

template <int channels, int pixels, class Scalar>
void to_channels_last(Backend<Scalar>& backend, Rows<const Scalar, channels * pixels> images,
                      Rows<Scalar, channels> y) {
  detail::make_units<detail::PixelUnit<Scalar, channels, pixels>>(backend, images.rows, images.data, y.data);
}

template <int channels, int pixels, class Scalar>
void to_planar(Backend<Scalar>& backend, Rows<const Scalar, channels> x, Rows<Scalar, channels * pixels> images) {
  using Unit = detail::PixelUnit<Scalar, channels, pixels>;
  constexpr int threads = detail::unit_threads<Scalar, Unit>();
  launch(backend, dim3(static_cast<unsigned>(images.rows * divide_up(Unit::units, threads))), threads, 0,
         detail::to_planar_kernel<Unit, Scalar>, x.data, images.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
