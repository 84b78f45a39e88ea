// Position embeddings: policies that declare the table (1, tokens, width) which is added to the tokens
// (docs/method.md, 2.5).
#pragma once

#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace position {

// The fixed sine-cosine table. The first half of the features encodes the ROW of a patch.
struct SinCos2d {
  static constexpr bool trained = false;
  template <int width>
  static constexpr bool supports = width % 4 == 0;

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name, int tokens, int width) {
    return visit(name / "pos_embed", Shape(1, tokens, width), Role::frozen, Initial::sincos_2d());
  }
};

// The same table with row and column exchanged, which MAE uses (docs/method.md, 10.2): the first half of the features
// encodes the COLUMN of a patch.
struct SinCos2dColumnsFirst {
  static constexpr bool trained = false;
  template <int width>
  static constexpr bool supports = width % 4 == 0;

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name, int tokens, int width) {
    return visit(name / "pos_embed", Shape(1, tokens, width), Role::frozen, Initial::sincos_2d_columns_first());
  }
};

// A trained table with initial values N(0, 0.02^2), as in timm.
struct Learned {
  static constexpr bool trained = true;
  template <int>
  static constexpr bool supports = true;

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name, int tokens, int width) {
    return visit(name / "pos_embed", Shape(1, tokens, width), Role::trained, Initial::normal(0.02));
  }
};

// No table: the model does not know the places of the patches.
struct None {
  static constexpr bool trained = false;
  template <int>
  static constexpr bool supports = true;

  template <class Visit>
  static constexpr typename Visit::Leaf declare(Visit&, const Name&, int, int) {
    return {};
  }
};

}  // namespace position
}  // namespace TESSERA_ABI
}  // namespace tessera
