// The base classes of the library's exceptions.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Exit codes of the programs, for the scripts that start them.
namespace exit_code {
inline constexpr int failed = 2;      // wrong options or data, no memory or storage left: correct this before a restart
inline constexpr int rank_lost = 75;  // a rank died, hangs, or cannot be reached: restart from the last checkpoint
inline constexpr int not_finite = 76;  // a loss, gradient or weight is not finite: change the settings before a restart
inline constexpr int stopped = 85;     // a signal stopped the run after a complete checkpoint: restart to continue
}  // namespace exit_code

// An error whose what() says in one sentence what went wrong, where, with which value, and what the user can do.
// Programs catch it in `main`, print what() and exit with exit_code().
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  [[nodiscard]] virtual int exit_code() const noexcept { return exit_code::failed; }
};

// A device or machine has less memory than a call needs. Nothing else is wrong: a smaller batch may fit.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// Throws Error with a message formatted by fmt: fail("{}: holds {} bytes, expected {}", path, got, expected).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> message, Args&&... args) {
  throw Error(fmt::format(message, std::forward<Args>(args)...));
}

// 3 << 20 -> "3.0 MiB", 5 << 29 -> "2.5 GiB".
[[nodiscard]] inline std::string memory_text(std::int64_t bytes) {
  constexpr double mib = 1 << 20, gib = 1 << 30;
  const double value = static_cast<double>(bytes);
  return value < gib ? fmt::format("{:.1f} MiB", value / mib) : fmt::format("{:.1f} GiB", value / gib);
}

}  // namespace TESSERA_ABI
}  // namespace tessera
