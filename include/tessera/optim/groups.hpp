// Groups: a function gives each tensor, by name and shape, its factors of the learning rate and the weight decay, and
// freezes tensors (docs/method.md, 4.5).
#pragma once

#include <charconv>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// The properties of the tensors of one group.
struct Group {
  double rate = 1;      // multiplies the learning rate
  double decay = 1;     // multiplies the weight decay
  bool frozen = false;  // never updated
  bool operator==(const Group&) const = default;
};

// The group of a tensor, by its name and shape. A trainer calls it when it is made, never in a step.
using Grouping = std::function<Group(const Entry&)>;

// The group of each entry.
[[nodiscard]] inline std::vector<Group> groups_of(std::span<const Entry> entries, const Grouping& grouping) {
  std::vector<Group> groups;
  groups.reserve(entries.size());
  for (const Entry& entry : entries) groups.push_back(grouping(entry));
  return groups;
}

namespace detail {

// True for tensors of at most one dimension (biases, weights of norms) and for names that end with one of `names`.
[[nodiscard]] inline bool vector_or_named(const Entry& entry, std::span<const std::string> names) {
  if (entry.shape.rank <= 1) return true;
  for (const std::string& name : names)
    if (entry.name.view().ends_with(name)) return true;
  return false;
}

// The layer of a tensor of a Vision Transformer with `depth` blocks: 0 for the class token, the position table and the
// patch embedding, i + 1 for block i, depth + 1 for all others. Throws Error if the name has a block beyond depth - 1.
[[nodiscard]] inline int layer_of(std::string_view name, int depth) {
  if (name == "cls_token" || name == "pos_embed" || name.starts_with("patch_embed")) return 0;
  constexpr std::string_view blocks = "blocks.";
  if (!name.starts_with(blocks)) return depth + 1;
  int block = -1;
  const auto parsed = std::from_chars(name.data() + blocks.size(), name.data() + name.size(), block);
  if (parsed.ec != std::errc() || block < 0 || block >= depth)
    fail("layer_decay: '{}' is in none of the {} blocks; give the depth of the encoder", name, depth);
  return block + 1;
}

}  // namespace detail

// One group for all tensors.
[[nodiscard]] inline Grouping uniform() {
  return [](const Entry&) { return Group{}; };
}

// No decay of tensors of at most one dimension, nor of those whose name ends with one of `undecayed`, as in MAE and
// DeiT.
[[nodiscard]] inline Grouping no_decay_of_vectors(std::vector<std::string> undecayed = {}) {
  return [undecayed = std::move(undecayed)](const Entry& entry) {
    return Group{.decay = detail::vector_or_named(entry, undecayed) ? 0.0 : 1.0};
  };
}

// Layer-wise rates of a Vision Transformer with `depth` blocks (docs/method.md, 4.5; Clark et al., arXiv 2003.10555;
// Bao et al., arXiv 2106.08254): the factor of a tensor of layer l is factor^(depth + 1 - l), and 1 for the head. A
// name that starts with `prefix` is taken without it. Decay as no_decay_of_vectors. Throws Error if factor is not in
// (0, 1].
[[nodiscard]] inline Grouping layer_decay(int depth, double factor, std::string prefix = "encoder.",
                                          std::vector<std::string> undecayed = {"cls_token", "pos_embed"}) {
  if (!(factor > 0 && factor <= 1)) fail("layer_decay: the factor must be above 0 and at most 1, not {}", factor);
  return [depth, factor, prefix = std::move(prefix), undecayed = std::move(undecayed)](const Entry& entry) {
    std::string_view name = entry.name.view();
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    return Group{.rate = std::pow(factor, depth + 1 - detail::layer_of(name, depth)),
                 .decay = detail::vector_or_named(entry, undecayed) ? 0.0 : 1.0};
  };
}

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
