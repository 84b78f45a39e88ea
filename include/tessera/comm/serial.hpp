// One process: every operation on all ranks is the identity and compiles to nothing.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/parallel.hpp"

namespace tessera::inline TESSERA_ABI::comm {

// rank() of size() processes. all_reduce sums `count` values over all ranks in place.
struct Serial {
  [[nodiscard]] static constexpr int rank() noexcept { return 0; }
  [[nodiscard]] static constexpr int size() noexcept { return 1; }

  template <class Scalar>
  static constexpr void all_reduce(Scalar*, index) noexcept {}
};

}  // namespace tessera::inline TESSERA_ABI::comm
