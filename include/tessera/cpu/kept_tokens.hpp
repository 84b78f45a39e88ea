// A subset of each image's tokens, named by number.
#pragma once

#include <cstring>

#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <int tokens, int kept, class Scalar, class Matmul, int width>
void gather_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> x, const int* keep,
                   Rows<Scalar, width> y) {
  for_rows(backend, y.rows, width,
           [&](index row) { std::memcpy(y.row(row), x.row(row / kept * tokens + keep[row]), width * sizeof(Scalar)); });
}

template <int tokens, int kept, class Scalar, class Matmul, int width>
void scatter_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, const int* keep,
                    Rows<Scalar, width> dx) {
  for_rows(backend, dx.rows / tokens, tokens * width, [&](index image) {
    std::fill_n(dx.row(image * tokens), tokens * width, Scalar{});
    for (index row = image * kept; row < (image + 1) * kept; ++row)
      std::memcpy(dx.row(image * tokens + keep[row]), dy.row(row), width * sizeof(Scalar));
  });
}

template <int extra, int kept, class Scalar, class Matmul, int width>
void add_positions(Backend<Scalar, Matmul>& backend, Rows<const Accumulator<Scalar>, width> positions, const int* keep,
                   Rows<Scalar, width> y) {
  constexpr index tokens = extra + kept;
  for_rows(backend, y.rows, width, [&](index row) {
    const index token = row % tokens;
    const index position = token < extra ? token : extra + keep[row / tokens * kept + token - extra];
    simd::transform(
        index{width}, y.row(row), [](auto a, auto b) { return a + b; }, y.row(row), positions.row(position));
  });
}

template <int extra, int kept, class Scalar, class Matmul, int width>
void add_positions_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, const int* keep,
                            Rows<Accumulator<Scalar>, width> d_positions) {
  constexpr index tokens = extra + kept;
  const index images = dy.rows / tokens;
  backend.for_pieces(d_positions.rows, 1, [&](index position, index, int) {
    Accumulator<Scalar>* const to = d_positions.row(position);
    const auto add = [&](index image, index token) {
      simd::transform(
          index{width}, to, [](auto a, auto b) { return a + b; }, to, dy.row(image * tokens + token));
    };
    std::memset(to, 0, width * sizeof(*to));
    for (index image = 0; image < images; ++image) {
      if (position < extra) add(image, position);
      for (index i = 0; position >= extra && i < kept; ++i)
        if (keep[image * kept + i] == position - extra) add(image, extra + i);
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
