// One process: every operation on all ranks is the identity and compiles to nothing.
#pragma once

#include <chrono>

#include "tessera/comm/communicator.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

struct Serial {
  [[nodiscard]] static constexpr int rank() noexcept { return 0; }
  [[nodiscard]] static constexpr int size() noexcept { return 1; }

  template <class Queue, class Value>
  static constexpr void all_reduce(Queue&, Value*, index) noexcept {}
  template <class Queue, class Value>
  static constexpr void reduce_scatter(Queue&, Value*, Displacements) noexcept {}
  template <class Queue, class Value>
  static constexpr void all_gather(Queue&, Value*, Displacements) noexcept {}
  template <class Queue, class Value>
  static constexpr void broadcast(Queue&, Value*, index) noexcept {}

  template <class Queue>
  static constexpr void wait(Queue& queue) {
    if constexpr (!HostQueue<Queue>) queue.wait();
  }
  [[nodiscard]] static constexpr Serial duplicate() noexcept { return {}; }
  static constexpr void set_deadline(std::chrono::milliseconds) noexcept {}
  static constexpr void abort() noexcept {}
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
