// A pool of threads for loops over independent pieces.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/threads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// `threads` workers, the calling thread included. A worker takes the next piece when it is free. The bounds of a piece
// depend on the loop alone, so results do not depend on the number of threads if pieces write to different places.
class ThreadPool {
 public:
  // threads = 0: one thread for each processor of the machine. Throws Error if the system refuses a thread.
  explicit ThreadPool(int threads = 0) {
    const int wanted = threads > 0 ? threads : static_cast<int>(std::thread::hardware_concurrency());
    try {
      workers_.reserve(static_cast<std::size_t>(wanted > 0 ? wanted : 1));
      for (int worker = 1; worker < wanted; ++worker)
        workers_.push_back(start_thread("the pool", wanted, [this, worker] { serve(worker); }));
    } catch (...) {
      stop();
      throw;
    }
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ~ThreadPool() { stop(); }

  [[nodiscard]] int threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(first, last, worker) for the pieces of [0, count), each of `grain` elements, the last of fewer; worker
  // is in [0, threads()). Returns when all pieces are done, and rethrows the first exception of a piece. Allocates
  // nothing. Loops must not be nested, nor have more than 2^32 - 1 pieces.
  template <class Body>
  void for_pieces(index count, index grain, Body&& body) {
    using Bare = std::remove_reference_t<Body>;
    run({[](void* context, index first, index last, int worker) {
           (*static_cast<Bare*>(context))(first, last, worker);
         },
         const_cast<void*>(static_cast<const void*>(&body)), count, grain});
  }

 private:
  // The body of a loop, its type erased: what follows is compiled once for all loops.
  struct Job {
    void (*body)(void*, index, index, int) = nullptr;
    void* context = nullptr;
    index count = 0, grain = 1;

    [[nodiscard]] index pieces() const { return divide_up(count, grain); }
    void run(index piece, int worker) const {
      const index first = piece * grain;
      body(context, first, first + grain < count ? first + grain : count, worker);
    }
  };

  void run(const Job& job) {
    if (job.count <= 0) return;
    const index pieces = job.pieces();
    if (pieces == 1 || workers_.empty()) {
      for (index piece = 0; piece < pieces; ++piece) job.run(piece, 0);
      return;
    }
    job_ = job;
    error_ = nullptr;
    done_.store(0, std::memory_order_relaxed);
    tickets_.store(
        std::uint64_t{generation_.load(std::memory_order_relaxed) + 1} << 32 | static_cast<std::uint32_t>(pieces),
        std::memory_order_release);
    wake_workers();
    work(0);
    wait_for_pieces(static_cast<std::uint32_t>(pieces));
    if (error_) std::rethrow_exception(error_);
  }

  static constexpr int spins = 4000;  // a few microseconds of polling before a thread sleeps: the next loop is near

  // Takes pieces until none is left. A loop ends when all of its pieces are done, so it does not wait for a worker that
  // the system has not scheduled. Such a worker finds no ticket left, or the tickets of a later loop. The upper half of
  // tickets_ is the loop's generation: it lets compare_exchange fail for a ticket that was read in an earlier loop.
  void work(int worker) {
    for (std::uint64_t ticket = tickets_.load(std::memory_order_acquire); static_cast<std::uint32_t>(ticket) != 0;) {
      if (!tickets_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      const std::uint32_t pieces = static_cast<std::uint32_t>(job_.pieces());
      try {
        job_.run(index{pieces} - static_cast<std::uint32_t>(ticket), worker);
      } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) done_.notify_one();
      ticket = tickets_.load(std::memory_order_acquire);
    }
  }

  void serve(int worker) {
    for (std::uint32_t seen = 0;;) {
      for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      if (stopping_) return;
      work(worker);
    }
  }

  void stop() {
    stopping_ = true;
    wake_workers();
    for (std::thread& worker : workers_) worker.join();
  }

  void wake_workers() {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }

  void wait_for_pieces(std::uint32_t all) {
    for (int spin = 0; spin < spins && done_.load(std::memory_order_acquire) != all; ++spin) pause();
    for (std::uint32_t done; (done = done_.load(std::memory_order_acquire)) != all;)
      done_.wait(done, std::memory_order_acquire);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  Job job_;
  std::atomic<std::uint64_t> tickets_{0};  // generation of the loop << 32 | number of pieces not yet taken
  std::atomic<std::uint32_t> done_{0};     // number of pieces done
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
