// A pool of threads for loops whose pieces are independent. Running a loop allocates nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera::inline TESSERA_ABI {

using index = std::ptrdiff_t;

// Divides and rounds up. divisor > 0.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index divide_up(index value, index divisor) {
  return (value + divisor - 1) / divisor;
}

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
    job_.run = nullptr;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  [[nodiscard]] int threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(first, last, worker) for [0, count) cut into pieces of `grain`; worker in [0, threads()).
  // The first exception of a piece is rethrown here. Loops must not be nested.
  template <class Body>
  void for_pieces(index count, index grain, Body&& body) {
    if (count <= 0) return;
    const index pieces = divide_up(count, grain);
    if (pieces == 1 || workers_.empty()) {
      for (index piece = 0; piece < pieces; ++piece) call(body, piece, count, grain, 0);
      return;
    }
    using Bare = std::remove_reference_t<Body>;
    job_ = {[](void* context, index piece, index all, index size, int worker) {
              call(*static_cast<Bare*>(context), piece, all, size, worker);
            },
            const_cast<void*>(static_cast<const void*>(&body)), count, grain, pieces};
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    wait_for_workers();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Job {
    void (*run)(void*, index, index, index, int) = nullptr;
    void* context = nullptr;
    index count = 0, grain = 0, pieces = 0;
  };

  static constexpr int spins = 4000;  // some microseconds: a step's loops follow each other closely

  template <class Body>
  static void call(Body& body, index piece, index count, index grain, int worker) {
    const index first = piece * grain;
    body(first, first + grain < count ? first + grain : count, worker);
  }

  void work(int worker) {
    for (index piece; (piece = next_.fetch_add(1, std::memory_order_relaxed)) < job_.pieces;) {
      try {
        job_.run(job_.context, piece, job_.count, job_.grain, worker);
      } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  void serve(int worker) {
    for (std::uint32_t seen = 0;;) {
      for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
      generation_.wait(seen, std::memory_order_acquire);
      ++seen;
      if (job_.run == nullptr) return;
      work(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void wait_for_workers() {
    for (int spin = 0; spin < spins && busy_.load(std::memory_order_acquire) != 0; ++spin) pause();
    for (int left; (left = busy_.load(std::memory_order_acquire)) != 0;) busy_.wait(left, std::memory_order_acquire);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  Job job_;
  std::atomic<index> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<std::uint32_t> generation_{0};
  std::exception_ptr error_;
  std::mutex error_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace tessera::inline TESSERA_ABI
