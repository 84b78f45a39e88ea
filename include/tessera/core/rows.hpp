// References to activations: row-major matrices with a constant number of columns.
#pragma once

#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A reference to a row-major matrix (rows x columns), which it does not own. A batch of images is
// Rows<Scalar, channels * height * width> with a row for each image; their tokens are Rows<Scalar, width> with
// images*tokens rows. An argument of 0 rows means "absent" or "not wanted".
template <class Scalar, int columns_>
struct Rows {
  static constexpr index columns = columns_;

  Scalar* data = nullptr;
  index rows = 0;

  [[nodiscard]] constexpr bool wanted() const { return rows > 0; }
  [[nodiscard]] constexpr index size() const { return rows * columns; }
  [[nodiscard]] constexpr Scalar* row(index r) const { return data + r * columns; }

  // Rows [first, first + count).
  [[nodiscard]] constexpr Rows part(index first, index count) const { return {data + first * columns, count}; }

  template <class Fixed>
  requires(!std::is_const_v<Scalar> && std::is_same_v<Fixed, const Scalar>) constexpr operator Rows<Fixed, columns_>()
      const {
    return {data, rows};
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
