// The pairs of NT-Xent (operations.hpp).
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// p(i): the place of the other view of row `row` of `rows`.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index other_view(index row, index rows) {
  const index images = rows / 2;
  return row < images ? row + images : row - images;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
