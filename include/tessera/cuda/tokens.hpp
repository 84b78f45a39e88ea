// Between images and token sequences: patches, class token, position table, pooling.
#pragma once

#include <cstdint>
#include <type_traits>

#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int token_threads = 256, class_token_threads = 1024, at_once = 4;

// Blocks for every image when a thread moves `each` of its `count` vectors.
[[nodiscard]] constexpr unsigned blocks_in(int count, int each = 1) {
  return static_cast<unsigned>(divide_up(count, index{token_threads} * each));
}

// Vectors are copied as words: the compiler would split other types into single elements.
template <class Scalar, int width>
using Words = std::conditional_t<(sizeof(Scalar) * width < 4), Vector<Scalar, width>,
                                 Vector<std::uint32_t, static_cast<int>(sizeof(Scalar)) * width / 4>>;

// Copies vectors within images: vector v of an image's `to_count` is vector source(v) of its `from_count`, or zero
// where that is negative.
template <int width, class Source, class Scalar>
__global__ void __launch_bounds__(token_threads) gather_kernel(Source source, const Scalar* from, Scalar* to) {
  using Moved = Words<Scalar, width>;
  constexpr unsigned blocks = blocks_in(Source::to_count, at_once);
  const index image = blockIdx.x / blocks;
  const auto* const images_from = reinterpret_cast<const Moved*>(from) + image * Source::from_count;
  auto* const images_to = reinterpret_cast<Moved*>(to) + image * Source::to_count;
  const unsigned first = blockIdx.x % blocks * (token_threads * at_once) + threadIdx.x;
  Moved values[at_once];
  TESSERA_UNROLL
  for (int i = 0; i < at_once; ++i) {
    const unsigned at = first + static_cast<unsigned>(i * token_threads);
    if (at >= Source::to_count) continue;
    const int where = source(at);
    values[i] = where >= 0 ? images_from[where] : Moved{};
  }
  TESSERA_UNROLL
  for (int i = 0; i < at_once; ++i) {
    const unsigned at = first + static_cast<unsigned>(i * token_threads);
    if (at < Source::to_count) images_to[at] = values[i];
  }
}

template <int width, class Scalar, class Source>
void gather(Backend<Scalar>& backend, index images, Source source, const Scalar* from, Scalar* to) {
  launch(backend, dim3(static_cast<unsigned>(images * blocks_in(Source::to_count, at_once))), token_threads, 0,
         gather_kernel<width, Source, Scalar>, source, from, to);
}

// Maps a vector of an image's patches to its place in the image, and back. A row of a patch has `run` vectors.
template <int channels, int size, int patch, int width>
struct PatchGeometry {
  static constexpr unsigned to_count = channels * size * size / width, from_count = to_count;
  static constexpr unsigned run = patch / width, grid = size / patch;
};

template <int channels, int size, int patch, int width>
struct PixelsOfPatch : PatchGeometry<channels, size, patch, width> {
  using PatchGeometry<channels, size, patch, width>::run, PatchGeometry<channels, size, patch, width>::grid;

  __device__ int operator()(unsigned at) const {
    const unsigned x = at % run, y = at / run % patch, channel = at / (run * patch) % channels;
    const unsigned number = at / (run * patch * channels), column = number % grid, row = number / grid;
    return static_cast<int>(((channel * size + row * patch + y) * grid + column) * run + x);
  }
};

template <int channels, int size, int patch, int width>
struct PatchOfPixels : PatchGeometry<channels, size, patch, width> {
  using PatchGeometry<channels, size, patch, width>::run, PatchGeometry<channels, size, patch, width>::grid;

  __device__ int operator()(unsigned at) const {
    const unsigned x = at % run, column = at / run % grid, y = at / (run * grid) % patch;
    const unsigned row = at / (run * grid * patch) % grid, channel = at / (run * grid * size);
    return static_cast<int>((((row * grid + column) * channels + channel) * patch + y) * run + x);
  }
};

// A token of `vectors` vectors out of an image's, and the image of zeros around a token.
template <int tokens, int vectors>
struct TokenOfImage {
  static constexpr unsigned to_count = vectors, from_count = tokens * vectors;
  int token;

  __device__ int operator()(unsigned at) const { return token * vectors + static_cast<int>(at); }
};

template <int tokens, int vectors>
struct ImageOfToken {
  static constexpr unsigned to_count = tokens * vectors, from_count = vectors;
  int token;

  __device__ int operator()(unsigned at) const {
    const int within = static_cast<int>(at) - token * vectors;
    return within < vectors ? within : -1;
  }
};

// One vector of `at_once` images to a thread, which share what it loads of the position table.
template <int grid_tokens, int tokens, int width, class Scalar>
__global__ void __launch_bounds__(token_threads)
    assemble_tokens_kernel(index images, const Scalar* embedded, const float* class_token, const float* positions,
                           Scalar* y) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, extra = tokens - grid_tokens;
  using Moved = Vector<Scalar, each>;
  constexpr unsigned blocks = blocks_in(tokens * vectors);
  const int at = static_cast<int>(blockIdx.x % blocks * token_threads + threadIdx.x);
  if (at >= tokens * vectors) return;
  const index first = static_cast<index>(blockIdx.x / blocks) * at_once;
  const int column = at % vectors * each;
  float position[each] = {}, values[at_once][each];
  if (positions != nullptr) load<each>(positions + at * each, position);
  TESSERA_UNROLL
  for (int i = 0; i < at_once; ++i) {
    if (at < extra * vectors)
      load<each>(class_token + column, values[i]);
    else if (first + i < images)
      load<each>(embedded + ((first + i) * grid_tokens * vectors + at - extra * vectors) * each, values[i]);
  }
  auto* const to = reinterpret_cast<Moved*>(y) + first * tokens * vectors + at;
  TESSERA_UNROLL
  for (int i = 0; i < at_once; ++i) {
    if (first + i >= images) return;
    TESSERA_UNROLL
    for (int k = 0; k < each; ++k) values[i][k] += position[k];
    store<each>(reinterpret_cast<Scalar*>(to + i * tokens * vectors), values[i]);
  }
}

// A lane to a vector of the first `count` vectors of an image, the images dealt out to the block's warps.
template <int grid_tokens, int tokens, int width, class Scalar>
__global__ void __launch_bounds__(class_token_threads)
    assemble_tokens_gradient_kernel(index images, int count, const Scalar* dy, Scalar* d_embedded, float* d_class_token,
                                    float* d_positions) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, extra = tokens - grid_tokens;
  using Moved = Vector<Scalar, each>;
  const int at = static_cast<int>(blockIdx.x * warp_size + threadIdx.x % warp_size);
  const int warp = static_cast<int>(threadIdx.x / warp_size), warps = static_cast<int>(blockDim.x / warp_size);
  const bool copied = d_embedded != nullptr && at >= extra * vectors;
  const auto* const from = reinterpret_cast<const Moved*>(dy) + at;
  auto* const to = reinterpret_cast<Moved*>(d_embedded);
  float sums[each] = {};
  for (index first = warp; at < count && first < images; first += at_once * warps) {
    Moved values[at_once];
    TESSERA_UNROLL
    for (int i = 0; i < at_once; ++i)
      values[i] = first + i * warps < images ? from[(first + i * warps) * tokens * vectors] : Moved{};
    TESSERA_UNROLL
    for (int i = 0; i < at_once; ++i) {
      if (copied && first + i * warps < images)
        to[(first + i * warps) * grid_tokens * vectors + at - extra * vectors] = values[i];
      TESSERA_UNROLL
      for (int k = 0; k < each; ++k) sums[k] += static_cast<float>(values[i].values[k]);
    }
  }
  sum_over_warps(sums, reinterpret_cast<float*>(shared_memory()));
  if (warp > 0 || at >= count) return;
  if (d_positions != nullptr)
    store<each>(reinterpret_cast<float*>(reinterpret_cast<Vector<float, each>*>(d_positions) + at), sums);
  if (d_class_token != nullptr && at < vectors)
    store<each>(reinterpret_cast<float*>(reinterpret_cast<Vector<float, each>*>(d_class_token) + at), sums);
}

// A lane to a vector of an image, its tokens dealt out to the block's warps.
template <int tokens, int skipped, int width, class Scalar>
__global__ void __launch_bounds__(token_threads) mean_tokens_kernel(const Scalar* x, Scalar* y) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each, warps = token_threads / warp_size;
  using Moved = Vector<Scalar, each>;
  constexpr unsigned blocks = static_cast<unsigned>(divide_up(vectors, warp_size));
  const index image = blockIdx.x / blocks;
  const int at = static_cast<int>(blockIdx.x % blocks * warp_size + threadIdx.x % warp_size);
  const int warp = static_cast<int>(threadIdx.x / warp_size);
  const auto* const from = reinterpret_cast<const Moved*>(x) + image * tokens * vectors + at;
  float sums[each] = {};
  for (int first = skipped + warp; at < vectors && first < tokens; first += at_once * warps) {
    Moved values[at_once];
    TESSERA_UNROLL
    for (int i = 0; i < at_once; ++i)
      values[i] = first + i * warps < tokens ? from[(first + i * warps) * vectors] : Moved{};
    TESSERA_UNROLL
    for (int i = 0; i < at_once; ++i) {
      TESSERA_UNROLL
      for (int k = 0; k < each; ++k) sums[k] += static_cast<float>(values[i].values[k]);
    }
  }
  sum_over_warps(sums, reinterpret_cast<float*>(shared_memory()));
  if (warp > 0 || at >= vectors) return;
  TESSERA_UNROLL
  for (int k = 0; k < each; ++k) sums[k] *= 1.0f / (tokens - skipped);
  store<each>(reinterpret_cast<Scalar*>(reinterpret_cast<Moved*>(y) + image * vectors + at), sums);
}

// One vector of up to `at_once` tokens to a thread.
template <int tokens, int skipped, int width, class Scalar>
__global__ void __launch_bounds__(token_threads) mean_tokens_gradient_kernel(const Scalar* dy, Scalar* dx) {
  constexpr int each = vector_width<Scalar>(width), vectors = width / each;
  using Moved = Vector<Scalar, each>;
  constexpr unsigned blocks = blocks_in(static_cast<int>(divide_up(tokens, at_once)) * vectors);
  const index image = blockIdx.x / blocks;
  const int at = static_cast<int>(blockIdx.x % blocks * token_threads + threadIdx.x);
  const int column = at % vectors, first = at / vectors * at_once;
  if (first >= tokens) return;
  float values[each];
  load<each>(dy + (image * vectors + column) * each, values);
  TESSERA_UNROLL
  for (int k = 0; k < each; ++k) values[k] *= 1.0f / (tokens - skipped);
  auto* const to = reinterpret_cast<Moved*>(dx) + (image * tokens + first) * vectors + column;
  TESSERA_UNROLL
  for (int i = 0; i < at_once; ++i)
    if (skipped > 0 && first + i < skipped)
      to[i * vectors] = Moved{};
    else if (first + i < tokens)
      store<each>(reinterpret_cast<Scalar*>(to + i * vectors), values);
}

}  // namespace detail

template <int channels, int size, int patch, class Scalar>
void patchify(Backend<Scalar>& backend, Rows<const Scalar, channels * size * size> images,
              Rows<Scalar, channels * patch * patch> patches) {
  constexpr int width = vector_width<Scalar>(patch);
  detail::gather<width>(backend, images.rows, detail::PixelsOfPatch<channels, size, patch, width>{}, images.data,
                        patches.data);
}

template <int channels, int size, int patch, class Scalar>
void unpatchify(Backend<Scalar>& backend, Rows<const Scalar, channels * patch * patch> patches,
                Rows<Scalar, channels * size * size> images) {
  constexpr int width = vector_width<Scalar>(patch);
  detail::gather<width>(backend, images.rows, detail::PatchOfPixels<channels, size, patch, width>{}, patches.data,
                        images.data);
}

template <int grid_tokens, int tokens, class Scalar, int width>
void assemble_tokens(Backend<Scalar>& backend, Rows<const Scalar, width> embedded,
                     const Accumulator<Scalar>* class_token, const Accumulator<Scalar>* positions,
                     Rows<Scalar, width> y) {
  const index images = y.rows / tokens;
  constexpr unsigned blocks = detail::blocks_in(tokens * (width / vector_width<Scalar>(width)));
  launch(backend, dim3(static_cast<unsigned>(divide_up(images, detail::at_once) * blocks)), detail::token_threads, 0,
         detail::assemble_tokens_kernel<grid_tokens, tokens, width, Scalar>, images, embedded.data, class_token,
         positions, y.data);
}

template <int grid_tokens, int tokens, class Scalar, int width>
void assemble_tokens_backward(Backend<Scalar>& backend, Rows<const Scalar, width> dy, Rows<Scalar, width> d_embedded,
                              Accumulator<Scalar>* d_class_token, Accumulator<Scalar>* d_positions) {
  // dy is read once. With nothing but the class token's gradient wanted, of which there are few vectors, more warps
  // add.
  constexpr int each = vector_width<Scalar>(width), vectors = width / each;
  const bool all = d_embedded.wanted() || d_positions != nullptr;
  const int count = all ? tokens * vectors : d_class_token != nullptr ? vectors : 0;
  const int threads = all ? detail::token_threads : detail::class_token_threads;
  launch(backend, blocks_for(count, warp_size), threads, threads * each * static_cast<index>(sizeof(float)),
         detail::assemble_tokens_gradient_kernel<grid_tokens, tokens, width, Scalar>, dy.rows / tokens, count, dy.data,
         d_embedded.data, d_class_token, d_positions);
}

template <int tokens, class Scalar, int width>
void take_token(Backend<Scalar>& backend, Rows<const Scalar, width> x, index token, Rows<Scalar, width> y) {
  constexpr int each = vector_width<Scalar>(width);
  detail::gather<each>(backend, y.rows, detail::TokenOfImage<tokens, width / each>{static_cast<int>(token)}, x.data,
                       y.data);
}

template <int tokens, class Scalar, int width>
void take_token_backward(Backend<Scalar>& backend, Rows<const Scalar, width> dy, index token, Rows<Scalar, width> dx) {
  constexpr int each = vector_width<Scalar>(width);
  detail::gather<each>(backend, dy.rows, detail::ImageOfToken<tokens, width / each>{static_cast<int>(token)}, dy.data,
                       dx.data);
}

template <int tokens, int skipped = 0, class Scalar, int width>
void mean_tokens(Backend<Scalar>& backend, Rows<const Scalar, width> x, Rows<Scalar, width> y) {
  constexpr int each = vector_width<Scalar>(width);
  constexpr index blocks = divide_up(width / each, warp_size);
  launch(backend, dim3(static_cast<unsigned>(y.rows * blocks)), detail::token_threads,
         index{detail::token_threads} * each * static_cast<index>(sizeof(float)),
         detail::mean_tokens_kernel<tokens, skipped, width, Scalar>, x.data, y.data);
}

template <int tokens, int skipped = 0, class Scalar, int width>
void mean_tokens_backward(Backend<Scalar>& backend, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
  constexpr int vectors = width / vector_width<Scalar>(width);
  constexpr unsigned blocks = detail::blocks_in(static_cast<int>(divide_up(tokens, detail::at_once)) * vectors);
  launch(backend, dim3(static_cast<unsigned>(dy.rows * blocks)), detail::token_threads, 0,
         detail::mean_tokens_gradient_kernel<tokens, skipped, width, Scalar>, dy.data, dx.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
