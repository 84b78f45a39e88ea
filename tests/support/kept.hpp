// Subsets of tokens by their definition: what the operations of both backends are compared with.
#pragma once

#include <algorithm>
#include <vector>

#include "support/operation.hpp"

namespace tessera::test {

// For each image `kept` different numbers below `tokens`, in no order.
inline std::vector<int> kept_tokens(Random& random, index images, int tokens, int kept) {
  std::vector<int> keep;
  for (index image = 0; image < images; ++image) {
    std::vector<int> all(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
    for (std::size_t i = all.size(); i > 1; --i)
      std::swap(all[i - 1], all[random.below(static_cast<std::uint32_t>(i))]);
    keep.insert(keep.end(), all.begin(), all.begin() + kept);
  }
  return keep;
}

// x (images*tokens rows), gathered (images*kept), y = gathered behind `extra` tokens plus positions, and the gradients
// for dy in the place of y and for d_gathered.
struct NaiveKept {
  Matrix gathered, y, scattered, d_positions;

  NaiveKept(index tokens, index extra, const std::vector<int>& keep, const Matrix& x, const Matrix& d_gathered,
            const Matrix& positions, const Matrix& before, const Matrix& dy)
      : gathered(static_cast<index>(keep.size()), x.columns),
        y(before),
        scattered(x.rows, x.columns),
        d_positions(positions.rows, positions.columns) {
    const index images = x.rows / tokens, kept = gathered.rows / images;
    for (index row = 0; row < gathered.rows; ++row)
      for (index c = 0; c < x.columns; ++c) {
        const index from = row / kept * tokens + keep[static_cast<std::size_t>(row)];
        gathered(row, c) = x(from, c);
        scattered(from, c) = d_gathered(row, c);
      }
    for (index row = 0; row < y.rows; ++row)
      for (index c = 0; c < x.columns; ++c) {
        const index token = row % (extra + kept), image = row / (extra + kept);
        const index position =
            token < extra ? token : extra + keep[static_cast<std::size_t>(image * kept + token - extra)];
        y(row, c) += positions(position, c);
        d_positions(position, c) += dy(row, c);
      }
  }
};

}  // namespace tessera::test
