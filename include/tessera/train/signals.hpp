// SIGINT and SIGTERM as a wish to stop that the training loop grants at the end of a step.
#pragma once

#include <csignal>
#include <initializer_list>

#include "tessera/core/abi.hpp"

namespace tessera::inline TESSERA_ABI {

// While it lives, the first SIGINT or SIGTERM is remembered; a second one ends the program at once.
class StopSignals {
 public:
  StopSignals() {
    caught_ = 0;
    handle(remember);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() { handle(SIG_DFL); }

  // The signal, or 0.
  [[nodiscard]] static int caught() noexcept { return caught_; }

 private:
  static void handle(void (*handler)(int)) {
    for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, handler);
  }
  static void remember(int signal) {
    caught_ = signal;
    handle(SIG_DFL);
  }

  static inline volatile std::sig_atomic_t caught_ = 0;
};

}  // namespace tessera::inline TESSERA_ABI
