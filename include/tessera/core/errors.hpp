// The one exception type of the library.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"

namespace tessera::inline TESSERA_ABI {

// What went wrong, where, with which value, and what to do, in one sentence for the person at the keyboard.
// Programs catch it in `main`, print `what()` and exit with 2.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error with a message formatted by fmt: fail("{}: holds {} bytes, expected {}", path, got, expected).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace tessera::inline TESSERA_ABI
