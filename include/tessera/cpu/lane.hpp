// A thread that works beside the backend.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/threads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// Jobs are done one after the other, each after everything that was done before it was started. After a job that throws
// the rest are left out. Allocates nothing once it has held as many jobs between two calls of join() as it will.
class Lane {
 public:
  template <class Backend>
  explicit Lane(Backend&) : thread_(start_thread("a lane", 1, [this] { serve(); })) {}
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // body(lane) is called by the lane's thread. What it refers to must live until join().
  template <class Body>
  void start(Body body) {
    static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= room,
                  "tessera: a lane's job holds at most 64 bytes of pointers and numbers");
    Job job;
    ::new (static_cast<void*>(job.body)) Body(std::move(body));
    job.run = [](Lane& lane, void* of_job) { (*static_cast<Body*>(of_job))(lane); };
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(job);
    }
    changed_.notify_all();
  }

  // Waits for all jobs; rethrows the exception of the first that failed.
  void join() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ == jobs_.size(); });
    jobs_.clear();
    done_ = 0;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  static constexpr std::size_t room = 64;
  struct Job {
    void (*run)(Lane&, void*) = nullptr;
    alignas(std::max_align_t) std::byte body[room];
  };

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || done_ < jobs_.size(); });
      if (stopping_) return;
      Job job = jobs_[done_];
      if (!error_) {
        lock.unlock();
        const std::exception_ptr error = run(job);
        lock.lock();
        error_ = error;
      }
      ++done_;
      changed_.notify_all();
    }
  }
  std::exception_ptr run(Job& job) {
    try {
      job.run(*this, job.body);
      return nullptr;
    } catch (...) {
      return std::current_exception();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> jobs_;
  std::size_t done_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
