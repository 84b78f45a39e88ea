// A communicator that fails on purpose: for tests, and to try out what restarts jobs.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>

#include "tessera/comm/communicator.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace testing {

// A fault of this rank: its kind, and the number of the call in which it happens.
struct Fault {
  enum class Kind : std::uint8_t {
    none,
    delay,       // the call begins later by `delay`
    exception,   // Error is thrown instead of the call
    silence,     // the call never begins, and its thread waits for ever
    stop,        // the process gets SIGSTOP
    death,       // the process gets SIGKILL
    corruption,  // 1 is added to the first of the values that this rank hands in; to none if it hands in none
  };
  Kind kind = Kind::none;
  std::int64_t call = 1;  // its number, from 1 on
  std::chrono::milliseconds delay{0};
};

// The fault belongs to this communicator's calls: its duplicates have none.
template <class Communicator>
class Faulty {
 public:
  explicit Faulty(Communicator inner, Fault fault = {}) : inner_(std::move(inner)), fault_(fault) {}

  [[nodiscard]] int rank() const noexcept { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept { return inner_.size(); }
  [[nodiscard]] Communicator& inner() noexcept { return inner_; }

  template <class Queue, class Value>
  void all_reduce(Queue& queue, Value* values, index count) {
    strike<Queue>(values, count);
    inner_.all_reduce(queue, values, count);
  }
  template <class Queue, class Value>
  void reduce_scatter(Queue& queue, Value* values, comm::Displacements displacements) {
    strike<Queue>(values, displacements.back());
    inner_.reduce_scatter(queue, values, displacements);
  }
  template <class Queue, class Value>
  void all_gather(Queue& queue, Value* values, comm::Displacements displacements) {
    const index first = displacements[static_cast<std::size_t>(rank())],
                end = displacements[static_cast<std::size_t>(rank()) + 1];
    strike<Queue>(values + first, end - first);
    inner_.all_gather(queue, values, displacements);
  }
  template <class Queue, class Value>
  void broadcast(Queue& queue, Value* values, index count) {
    strike<Queue>(values, rank() == 0 ? count : 0);
    inner_.broadcast(queue, values, count);
  }

  template <class Queue>
  void wait(Queue& queue) {
    inner_.wait(queue);
  }
  [[nodiscard]] Faulty duplicate() { return Faulty(inner_.duplicate()); }
  void set_deadline(std::chrono::milliseconds deadline) { inner_.set_deadline(deadline); }
  void abort() noexcept { inner_.abort(); }

 private:
  // Before each call, which hands in `count` of this rank's values.
  template <class Queue, class Value>
  void strike(Value* values, index count) {
    if (++calls_ != fault_.call) return;
    switch (fault_.kind) {
      case Fault::Kind::none:
        return;
      case Fault::Kind::delay:
        return std::this_thread::sleep_for(fault_.delay);
      case Fault::Kind::exception:
        fail("rank {} throws in call {}, as its Fault says", rank(), calls_);
      case Fault::Kind::silence:
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
      case Fault::Kind::stop:
        ::kill(::getpid(), SIGSTOP);
        return;
      case Fault::Kind::death:
        ::kill(::getpid(), SIGKILL);
        return;
      case Fault::Kind::corruption:
        return corrupt<Queue>(values, count);
    }
  }
  template <class Queue, class Value>
  static void corrupt([[maybe_unused]] Value* values, [[maybe_unused]] index count) {
    if constexpr (!comm::HostQueue<Queue>)
      fail("a corruption needs values on the host: let Faulty decorate the communicator beneath, Staged<Faulty<Mpi>>");
    else if (count > 0)
      *values = static_cast<Value>(static_cast<Accumulator<Value>>(*values) + Accumulator<Value>{1});
  }

  Communicator inner_;
  Fault fault_;
  std::int64_t calls_ = 0;
};

}  // namespace testing
}  // namespace TESSERA_ABI
}  // namespace tessera
