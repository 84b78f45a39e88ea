// Between images and token sequences: patches, class token, position table, pooling.
#pragma once

#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <int channels, int size, int patch, class Scalar, class Matmul>
void patchify(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels * size * size> images,
              Rows<Scalar, channels * patch * patch> patches) {
  constexpr index grid = size / patch;
  for_rows(backend, images.rows * grid, channels * patch * size, [&](index strip) {
    const Scalar* const from = images.row(strip / grid) + strip % grid * patch * size;
    for (index c = 0; c < channels; ++c)
      for (index y = 0; y < patch; ++y)
        for (index column = 0; column < grid; ++column)
          std::memcpy(patches.row(strip * grid + column) + (c * patch + y) * patch,
                      from + c * size * size + y * size + column * patch, patch * sizeof(Scalar));
  });
}

template <int channels, int size, int patch, class Scalar, class Matmul>
void unpatchify(Backend<Scalar, Matmul>& backend, Rows<const Scalar, channels * patch * patch> patches,
                Rows<Scalar, channels * size * size> images) {
  constexpr index grid = size / patch;
  for_rows(backend, images.rows * grid, channels * patch * size, [&](index strip) {
    Scalar* const to = images.row(strip / grid) + strip % grid * patch * size;
    for (index c = 0; c < channels; ++c)
      for (index y = 0; y < patch; ++y)
        for (index column = 0; column < grid; ++column)
          std::memcpy(to + c * size * size + y * size + column * patch,
                      patches.row(strip * grid + column) + (c * patch + y) * patch, patch * sizeof(Scalar));
  });
}

template <int grid_tokens, int tokens, class Scalar, class Matmul, int width>
void assemble_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> embedded,
                     const Accumulator<Scalar>* class_token, const Accumulator<Scalar>* positions,
                     Rows<Scalar, width> y) {
  constexpr index extra = tokens - grid_tokens;
  for_rows(backend, y.rows, width, [&](index row) {
    const index image = row / tokens, token = row % tokens;
    const auto assign = [&](const auto* from) {
      if (positions == nullptr)
        simd::transform(
            index{width}, y.row(row), [](auto a) { return a; }, from);
      else
        simd::transform(
            index{width}, y.row(row), [](auto a, auto b) { return a + b; }, from, positions + token * width);
    };
    if (token < extra)
      assign(class_token);
    else
      assign(embedded.row(image * grid_tokens + token - extra));
  });
}

template <int grid_tokens, int tokens, class Scalar, class Matmul, int width>
void assemble_tokens_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy,
                              Rows<Scalar, width> d_embedded, Accumulator<Scalar>* d_class_token,
                              Accumulator<Scalar>* d_positions) {
  backend.compute([&] {
    constexpr index extra = tokens - grid_tokens;
    const index images = dy.rows / tokens;
    const auto sum_over_images = [&](index token, Accumulator<Scalar>* to) {
      simd::transform(
          index{width}, to, [](auto a) { return a; }, dy.row(token));
      for (index image = 1; image < images; ++image)
        simd::transform(
            index{width}, to, [](auto a, auto b) { return a + b; }, to, dy.row(image * tokens + token));
    };
    if (d_embedded.wanted())
      for_rows(backend, d_embedded.rows, width, [&](index row) {
        std::memcpy(d_embedded.row(row), dy.row(row / grid_tokens * tokens + extra + row % grid_tokens),
                    width * sizeof(Scalar));
      });
    if (d_class_token != nullptr) sum_over_images(0, d_class_token);
    if (d_positions != nullptr)
      backend.for_pieces(index{tokens}, 1,
                         [&](index first, index, int) { sum_over_images(first, d_positions + first * width); });
  });
}

template <int tokens, class Scalar, class Matmul, int width>
void take_token(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> x, index token, Rows<Scalar, width> y) {
  for_rows(backend, y.rows, width,
           [&](index row) { std::memcpy(y.row(row), x.row(row * tokens + token), width * sizeof(Scalar)); });
}

template <int tokens, class Scalar, class Matmul, int width>
void take_token_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, index token,
                         Rows<Scalar, width> dx) {
  for_rows(backend, dy.rows, tokens * width, [&](index image) {
    std::fill_n(dx.row(image * tokens), tokens * width, Scalar{});
    std::memcpy(dx.row(image * tokens + token), dy.row(image), width * sizeof(Scalar));
  });
}

template <int tokens, int skipped = 0, class Scalar, class Matmul, int width>
void mean_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> x, Rows<Scalar, width> y) {
  for_rows(backend, y.rows, tokens * width, [&](index image) {
    alignas(64) Accumulator<Scalar> sums[width];
    simd::transform(
        index{width}, sums, [](auto a) { return a; }, x.row(image * tokens + skipped));
    for (index token = skipped + 1; token < tokens; ++token)
      simd::transform(
          index{width}, sums, [](auto a, auto b) { return a + b; }, sums, x.row(image * tokens + token));
    simd::transform(
        index{width}, y.row(image), [](auto a) { return a * (Accumulator<Scalar>(1) / (tokens - skipped)); }, sums);
  });
}

template <int tokens, int skipped = 0, class Scalar, class Matmul, int width>
void mean_tokens_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
  for_rows(backend, dx.rows, width, [&](index row) {
    if (skipped > 0 && row % tokens < skipped)
      std::fill_n(dx.row(row), width, Scalar{});
    else
      simd::transform(
          index{width}, dx.row(row), [](auto a) { return a * (Accumulator<Scalar>(1) / (tokens - skipped)); },
          dy.row(row / tokens));
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
