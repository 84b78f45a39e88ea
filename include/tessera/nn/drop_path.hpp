// Drop path: residual branches left out at random (Huang et al., "Deep Networks with Stochastic Depth", arXiv
// 1603.09382; docs/method.md, 9.4).
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The factors of the two branches of a block, one for each image: 0 leaves the branch out, 1 / (1 - rate) keeps it.
// on = false: no drop path, branches are added as they are. The pointers are null while planning.
template <class Scalar>
struct BranchScales {
  bool on = false;
  const Accumulator<Scalar>* attention = nullptr;
  const Accumulator<Scalar>* mlp = nullptr;
};

// The factors of block number `block`, from the context; each pointer has `images` values.
template <class Context>
[[nodiscard]] BranchScales<typename Context::Scalar> branch_scales(const Context& context, int block, index images) {
  if (!context.drop_path || context.branch_scales == nullptr) return {context.drop_path, nullptr, nullptr};
  const auto* const attention = context.branch_scales + 2 * block * images;
  return {true, attention, attention + images};
}

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
