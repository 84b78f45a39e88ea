// Mixup and CutMix by their definition, in double.
#pragma once

#include "support/operation.hpp"
#include "tessera/core/draws.hpp"

namespace tessera::test {

inline Matrix naive_mixed(const Matrix& x, const Mixing& mixing, int size) {
  Matrix mixed = x;
  for (index n = 0; n < x.rows; ++n)
    for (index i = 0; i < x.columns; ++i) {
      const double other = x(x.rows - 1 - n, i);
      const index row = i / size % size, column = i % size;
      if (mixing.kind == Mixing::Kind::mixup) mixed(n, i) = mixing.lambda * x(n, i) + (1 - mixing.lambda) * other;
      if (mixing.kind == Mixing::Kind::cutmix && row >= mixing.y0 && row < mixing.y1 && column >= mixing.x0 &&
          column < mixing.x1)
        mixed(n, i) = other;
    }
  return mixed;
}

// No mixing, mixup, and boxes inside, over the border, empty and whole.
inline std::vector<Mixing> mixings(int size) {
  return {Mixing{},
          Mixing::mixup(0.3),
          Mixing::cutmix(0.6, size, size / 2, size / 3),
          Mixing::cutmix(0.5, size, 0, size - 1),
          Mixing::cutmix(1, size, 1, 1),
          Mixing::cutmix(0, size, size / 2, size / 2)};
}

}  // namespace tessera::test
