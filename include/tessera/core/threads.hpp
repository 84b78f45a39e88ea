// Threads that the system may refuse.
#pragma once

#include <system_error>
#include <thread>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A thread that runs body(), one of `wanted` of `owner`. Throws Error, which names both, if the system refuses it.
template <class Thread = std::thread, class Body>
[[nodiscard]] Thread start_thread(const char* owner, int wanted, Body&& body) {
  try {
    return Thread(std::forward<Body>(body));
  } catch (const std::system_error& problem) {
    fail("{} cannot start {} thread(s): {}; fewer threads need less memory", owner, wanted, problem.code().message());
  }
}

}  // namespace TESSERA_ABI
}  // namespace tessera
