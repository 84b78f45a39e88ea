// Top-k accuracy of scores.
#pragma once

#include <cstddef>
#include <span>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

// The rows of scores (labels.size() x classes) whose label is among the k largest; of equal scores the earlier class
// is taken. A label outside the classes is never among them.
template <class Scalar>
[[nodiscard]] index top_hits(std::span<const Scalar> scores, std::span<const int> labels, int k) {
  if (labels.empty()) return 0;
  if (scores.size() % labels.size() != 0)
    fail("top_hits: {} scores do not belong to {} labels", scores.size(), labels.size());
  const auto classes = static_cast<index>(scores.size() / labels.size());
  index hits = 0;
  for (std::size_t row = 0; row < labels.size(); ++row) {
    const Scalar* const score = scores.data() + static_cast<index>(row) * classes;
    const index label = labels[row];
    if (label < 0 || label >= classes || score[label] != score[label]) continue;
    index before = 0;
    for (index c = 0; c < classes; ++c) before += score[c] > score[label] || (score[c] == score[label] && c < label);
    hits += before < k;
  }
  return hits;
}

}  // namespace eval
}  // namespace TESSERA_ABI
}  // namespace tessera
