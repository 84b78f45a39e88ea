// The one exception type of the library.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// What programs tell the scripts that start them.
namespace exit_code {
inline constexpr int failed = 2;      // options, data, memory, storage: do not restart before the message is understood
inline constexpr int rank_lost = 75;  // a rank died, hangs, or is cut off: restart from the last checkpoint
inline constexpr int not_finite = 76;  // a loss or gradient: do not restart as it was
inline constexpr int stopped = 85;     // by a signal, after a complete checkpoint: start again to continue
}  // namespace exit_code

// What went wrong, where, with which value, and what to do, in one sentence for the person at the keyboard.
// Programs catch it in `main`, print `what()` and exit with its exit code.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  [[nodiscard]] virtual int exit_code() const noexcept { return exit_code::failed; }
};

// Throws Error with a message formatted by fmt: fail("{}: holds {} bytes, expected {}", path, got, expected).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace TESSERA_ABI
}  // namespace tessera
