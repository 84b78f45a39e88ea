// A subset of each image's tokens, named by number. keep (images x kept): the numbers of the tokens that stay, each at
// most once for an image, in any order.
#pragma once

#include <cstring>

#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// y (images*kept rows) = the kept ones of x (images*tokens rows).
template <int tokens, int kept, class Scalar, class Matmul, int width>
void gather_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> x, const int* keep,
                   Rows<Scalar, width> y) {
  if (backend.planning()) return;
  for_rows(backend, y.rows, width,
           [&](index row) { std::memcpy(y.row(row), x.row(row / kept * tokens + keep[row]), width * sizeof(Scalar)); });
}

// The gradient of gather_tokens: dx = dy at the kept tokens, zero elsewhere.
template <int tokens, int kept, class Scalar, class Matmul, int width>
void scatter_tokens(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, const int* keep,
                    Rows<Scalar, width> dx) {
  if (backend.planning()) return;
  for_rows(backend, dx.rows / tokens, tokens * width, [&](index image) {
    std::memset(dx.row(image * tokens), 0, tokens * width * sizeof(Scalar));
    for (index row = image * kept; row < (image + 1) * kept; ++row)
      std::memcpy(dx.row(image * tokens + keep[row]), dy.row(row), width * sizeof(Scalar));
  });
}

// y += positions, where an image of y has `extra` tokens and then those that it keeps. The table has a row for each of
// the first, then one for each token that could be kept.
template <int extra, int kept, class Scalar, class Matmul, int width>
void add_positions(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> positions, const int* keep,
                   Rows<Scalar, width> y) {
  if (backend.planning()) return;
  constexpr index tokens = extra + kept;
  for_rows(backend, y.rows, width, [&](index row) {
    const index token = row % tokens;
    const index position = token < extra ? token : extra + keep[row / tokens * kept + token - extra];
    simd::transform(
        index{width}, y.row(row), [](auto a, auto b) { return a + b; }, y.row(row), positions.row(position));
  });
}

// The gradient of add_positions: d_positions is assigned, zero where nothing was kept.
template <int extra, int kept, class Scalar, class Matmul, int width>
void add_positions_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, width> dy, const int* keep,
                            Rows<Scalar, width> d_positions) {
  if (backend.planning()) return;
  constexpr index tokens = extra + kept;
  const index images = dy.rows / tokens;
  backend.pool().for_pieces(d_positions.rows, 1, [&](index position, index, int) {
    Scalar* const to = d_positions.row(position);
    const auto add = [&](index image, index token) {
      simd::transform(
          index{width}, to, [](auto a, auto b) { return a + b; }, to, dy.row(image * tokens + token));
    };
    std::memset(to, 0, width * sizeof(Scalar));
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
