// Position embeddings: what is added to the tokens (docs/method.md, 2.5).
#pragma once

#include <array>
#include <cmath>

#include "tessera/core/layout.hpp"

namespace tessera::inline TESSERA_ABI::position {

// The fixed two-dimensional sine-cosine table. The first half of the features encodes the ROW of a patch.
struct SinCos2d {
  static constexpr bool trained = false;
  template <int width>
  static constexpr bool supports = width % 4 == 0;

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name, int tokens, int width) {
    return visit(name / "pos_embed", Shape(1, tokens, width), Role::frozen, Initial::sincos_2d());
  }
};

// A trained table, started as timm starts it.
struct Learned {
  static constexpr bool trained = true;
  template <int>
  static constexpr bool supports = true;

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name, int tokens, int width) {
    return visit(name / "pos_embed", Shape(1, tokens, width), Role::trained, Initial::normal(0.02));
  }
};

// Nothing is added: the model does not know where a patch was.
struct None {
  static constexpr bool trained = false;
  template <int>
  static constexpr bool supports = true;

  template <class Visit>
  static constexpr typename Visit::Leaf declare(Visit&, const Name&, int, int) {
    return {};
  }
};

// Value of the sine-cosine table at feature `channel` of `width` for the patch in (row, column):
// [sin(row w) | cos(row w) | sin(column w) | cos(column w)] with w_i = 10000^(-i / (width / 4)).
[[nodiscard]] inline double sincos_2d(int row, int column, int channel, int width) {
  const int quarter = width / 4, part = channel / quarter;
  const double angle = (part < 2 ? row : column) * std::pow(10000.0, -static_cast<double>(channel % quarter) / quarter);
  return part % 2 == 0 ? std::sin(angle) : std::cos(angle);
}

}  // namespace tessera::inline TESSERA_ABI::position
