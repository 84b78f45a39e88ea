// Drop path: branches of residual blocks that are left out at random (Huang et al., "Deep Networks with Stochastic
// Depth", 2016; docs/method.md, 9.4).
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The factors of a block's two branches, one for each image: 0 leaves the branch out, 1 / (1 - rate) keeps it. Without
// `on` branches are added as they are. The pointers are null while planning.
template <class Scalar>
struct BranchScales {
  bool on = false;
  const Accumulator<Scalar>* attention = nullptr;
  const Accumulator<Scalar>* mlp = nullptr;
};

// Those of block number `block` for `images` images.
template <class Context>
[[nodiscard]] BranchScales<typename Context::Scalar> branch_scales(const Context& context, int block, index images) {
  if (!context.drop_path || context.branch_scales == nullptr) return {context.drop_path, nullptr, nullptr};
  const auto* const attention = context.branch_scales + 2 * block * images;
  return {true, attention, attention + images};
}

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
