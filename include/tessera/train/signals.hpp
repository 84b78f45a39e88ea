// Signals as a wish to stop that the training loop grants at the end of a step: POSIX.
#pragma once

#include <signal.h>

#include <array>
#include <cstddef>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// While it lives, these signals are remembered: those of a keyboard (SIGINT), of `kill` and of job systems (SIGTERM),
// of a terminal that closes (SIGHUP), of job systems that announce the end of the time, which mpirun forwards
// (SIGUSR1), and of used up processor time (SIGXCPU). One that was ignored before, as nohup does with SIGHUP, stays
// ignored.
//
// Somebody at the keyboard need not wait: SIGINT that follows another signal ends the program at once, and so does
// SIGTERM that follows SIGINT. Other signals may come again without effect, since `timeout`, shells and job systems
// send theirs twice.
//
// Made by the main thread, which is the one that Linux interrupts. The handler has a stack of its own: inside oneDNN's
// matrix products (2.6), the stack pointer points to a buffer on the heap, and a handler on that stack overwrites what
// lies below.
class StopSignals {
 public:
  StopSignals() {
    caught_ = 0;
    stack_t own{};
    own.ss_sp = stack_.data();
    own.ss_size = stack_.size();
    ::sigaltstack(&own, &stack_before_);
    for (std::size_t i = 0; i < signals.size(); ++i) {
      ::sigaction(signals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) handle(signals[i], remember);
    }
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals() {
    for (std::size_t i = 0; i < signals.size(); ++i) ::sigaction(signals[i], &before_[i], nullptr);
    ::sigaltstack(&stack_before_, nullptr);
  }

  // As a callback of a run: whether to stop.
  template <class Run>
  [[nodiscard]] bool stop(Run&) const noexcept {
    return caught() != 0;
  }

  // The first signal, or 0.
  [[nodiscard]] static int caught() noexcept { return caught_; }

 private:
  static constexpr std::array signals{SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU};

  static void handle(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_ONSTACK | SA_RESTART;
    ::sigaction(signal, &action, nullptr);
  }
  static void remember(int signal) {
    if (caught_ == 0) caught_ = signal;
    release(SIGINT);
    if (signal == SIGINT) release(SIGTERM);
  }
  // The signal ends the program, unless it is ignored.
  static void release(int signal) {
    struct sigaction now {};
    ::sigaction(signal, nullptr, &now);
    if (now.sa_handler == remember) handle(signal, SIG_DFL);
  }

  static inline volatile sig_atomic_t caught_ = 0;
  static inline std::array<std::byte, 1 << 16> stack_;
  std::array<struct sigaction, signals.size()> before_{};
  stack_t stack_before_{};
};

}  // namespace TESSERA_ABI
}  // namespace tessera
