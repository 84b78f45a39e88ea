// SIGINT, SIGTERM and SIGUSR1 as a wish to stop that the training loop grants at the end of a step: POSIX.
#pragma once

#include <signal.h>

#include <array>
#include <cstddef>
#include <initializer_list>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// While it lives, the first of these signals is remembered (job systems announce the end of the time by SIGUSR1, and
// mpirun forwards it, whereas after SIGTERM it kills within two seconds); a second one ends the program at once. Made
// by the main thread, which is the one that Linux interrupts.
//
// The handler has a stack of its own: inside oneDNN's matrix products (2.6), the stack pointer points to a buffer on
// the heap, and a handler on that stack overwrites what lies below.
class StopSignals {
 public:
  StopSignals() {
    caught_ = 0;
    stack_t own{};
    own.ss_sp = stack_.data();
    own.ss_size = stack_.size();
    ::sigaltstack(&own, &stack_before_);
    handle(remember);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() {
    handle(SIG_DFL);
    ::sigaltstack(&stack_before_, nullptr);
  }

  // As a callback of a run: whether to stop.
  template <class Run>
  [[nodiscard]] bool stop(Run&) const noexcept {
    return caught() != 0;
  }

  // The signal, or 0.
  [[nodiscard]] static int caught() noexcept { return caught_; }

 private:
  static void handle(void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(signal, &action, nullptr);
  }
  static void remember(int signal) {
    caught_ = signal;
    handle(SIG_DFL);
  }

  static inline volatile sig_atomic_t caught_ = 0;
  static inline std::array<std::byte, 1 << 16> stack_;
  stack_t stack_before_{};
};

}  // namespace TESSERA_ABI
}  // namespace tessera
