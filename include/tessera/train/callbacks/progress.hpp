// Time, and the line that shows how far a run is.
#pragma once

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

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

// Writes text to standard output. What cannot be written is lost: no message is worth a run. Returns false, and errno
// says why, if that is so.
inline bool print(const std::string& text) noexcept {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  const int problem = errno;
  std::clearerr(stdout);
  errno = problem;
  return written;
}

// Prints lines to standard output: on a terminal each overwrites the one before, twice a second; otherwise, and on a
// terminal that cannot do that (TERM=dumb), one every ten seconds.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress() = default;
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (open_) print("\n");
  }

  // True when the next line is due: every half second on a terminal, every 10 seconds elsewhere.
  [[nodiscard]] bool due() const {
    return Clock::now() - last_ >= (terminal_ ? std::chrono::milliseconds(500) : std::chrono::seconds(10));
  }
  // True once nobody reads any more: standard output was a pipe, and its other end is closed.
  [[nodiscard]] bool closed() const noexcept { return closed_; }

  // On a terminal, as much of the line as fits in one row.
  void show(const std::string& line) {
    last_ = Clock::now();
    open_ = terminal_;
    write(terminal_ ? "\r\033[K" + line.substr(0, columns() - 1) : line + "\n");
  }

  // A line that stays.
  void keep(const std::string& line) { write((std::exchange(open_, false) ? "\r\033[K" : "") + line + "\n"); }

 private:
  [[nodiscard]] static bool can_overwrite() {
    const char* const kind = std::getenv("TERM");
    return ::isatty(STDOUT_FILENO) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
  }
  [[nodiscard]] static std::size_t columns() {
    constexpr std::size_t usual = 80;
    struct winsize size {};
    return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : usual;
  }
  void write(const std::string& text) { closed_ = (!print(text) && errno == EPIPE) || closed_; }

  bool terminal_ = can_overwrite();
  bool open_ = false;  // the last line has no end yet
  bool closed_ = false;
  Clock::time_point last_{};
};

}  // namespace TESSERA_ABI
}  // namespace tessera
