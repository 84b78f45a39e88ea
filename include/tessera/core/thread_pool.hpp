// A pool of threads for loops whose pieces are independent. Running a loop allocates nothing.
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

namespace tessera {
inline namespace TESSERA_ABI {

// `threads` workers, the calling thread included. Pieces are handed out as threads become free; since a piece's bounds
// depend on the loop alone, results do not depend on the number of threads as long as pieces write to different places.
class ThreadPool {
 public:
  // threads = 0 takes every processor of the machine.
  explicit ThreadPool(int threads = 0) {
    const int wanted = threads > 0 ? threads : static_cast<int>(std::thread::hardware_concurrency());
    for (int worker = 1; worker < wanted; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ~ThreadPool() {
    stopping_ = true;
    wake_workers();
    for (std::thread& worker : workers_) worker.join();
  }

  [[nodiscard]] int threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(first, last, worker) for [0, count) cut into pieces of `grain`; worker in [0, threads()).
  // The first exception of a piece is rethrown here. Loops must not be nested, nor have more than 2^32 - 1 pieces.
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

  static constexpr int spins = 4000;  // some microseconds: a step's loops follow each other closely

  // Takes pieces until none is left. The loop is over when all pieces are done, whoever did them: a worker that the
  // system holds up is not waited for. One that comes late finds no ticket, or a later loop's; the generation in the
  // tickets keeps it from taking an old one for a new one.
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
  std::atomic<std::uint64_t> tickets_{0};  // the loop's generation, and how many of its pieces nobody has taken
  std::atomic<std::uint32_t> done_{0};     // pieces
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
