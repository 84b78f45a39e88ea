// Clipping of gradients by the norm of all of them, in front of an optimizer (docs/method.md, 4.8).
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "tessera/core/clipping.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// Limits the norm over all tensors that an optimizer updates. Each rank sums the squares of its share, and the ranks
// add their sums. The sum stays in memory of the backend, so nothing waits for the host.
class Clipping {
 public:
  // limit: 0 for none. Throws Error if it is negative or not finite.
  Clipping(double limit, std::span<const Entry> entries, std::span<const Group> groups)
      : limit_(limit), entries_(entries) {
    if (!(limit >= 0 && std::isfinite(limit)))
      fail("gradients cannot be clipped to a norm of {}; give a number above 0, or 0 for no clipping", limit);
    for (const Group& group : groups) groups_.push_back({.frozen = group.frozen});  // one stretch for all rates
  }

  [[nodiscard]] bool on() const noexcept { return limit_ > 0; }
  // The factor of gradients whose squares add up to `square`.
  [[nodiscard]] double factor(double square) const { return on() ? clipping_factor(square, limit_) : 1; }

  // *square = the sum of the squares of the gradients in `shares`; both in memory of the backend.
  template <class Backend, class Value>
  void measure(Backend& backend, std::span<const Part> shares, const Value* gradient, double* square) const {
    backend.clear(1, square);
    detail::for_stretches(entries_, groups_, shares, [&](index at, index size, index, const Group&) {
      add_squares(backend, size, gradient + at, square);
    });
  }
  // Scales all gradients in `parts`; none if *blocked is not 0. square: the sum over the shares of all ranks.
  template <class Backend, class Value>
  void apply(Backend& backend, std::span<const Part> parts, const double* square, const double* blocked,
             Value* gradient) const {
    for (const Part& part : parts)
      clip(backend, part.last - part.first, limit_, square, blocked, gradient + part.first);
  }

 private:
  double limit_;
  std::span<const Entry> entries_;
  std::vector<Group> groups_;
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
