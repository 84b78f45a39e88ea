// Time, and the line that shows how far a run is.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// 95 -> "1:35", 3700 -> "1:01:40".
[[nodiscard]] inline std::string duration_text(double seconds) {
  const long all = static_cast<long>(seconds + 0.5);
  const long hours = all / 3600, minutes = all / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, all % 60)
                   : fmt::format("{}:{:02}", minutes, all % 60);
}

// Seconds since it was made.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Prints lines to standard output: on a terminal each overwrites the one before, twice a second; otherwise one every
// ten seconds.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress() = default;
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (open_) std::putchar('\n');
  }

  // True when the next line is due: every half second on a terminal, every 10 seconds elsewhere.
  [[nodiscard]] bool due() const {
    return Clock::now() - last_ >= (terminal_ ? std::chrono::milliseconds(500) : std::chrono::seconds(10));
  }

  void show(const std::string& line) {
    last_ = Clock::now();
    open_ = terminal_;
    if (terminal_)
      fmt::print("\r\033[K{}", line);
    else
      fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  // A line that stays.
  void keep(const std::string& line) {
    if (open_) fmt::print("\r\033[K");
    open_ = false;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

 private:
  bool terminal_ = ::isatty(STDOUT_FILENO) == 1;
  bool open_ = false;  // the last line has no end yet
  Clock::time_point last_{};
};

}  // namespace TESSERA_ABI
}  // namespace tessera
