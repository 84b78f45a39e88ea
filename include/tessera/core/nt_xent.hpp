// The pairs of NT-Xent (operations.hpp).
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// p(row): the number of the row that is the other view of the same image, among `rows` = 2n rows.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index other_view(index row, index rows) {
  const index images = rows / 2;
  return row < images ? row + images : row - images;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
