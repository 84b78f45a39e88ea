// Ranks that are threads of one process: the model that other communicators are
// measured against, within reach of debuggers and sanitizers.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/threads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

namespace detail {

// Shared by a group and its duplicates.
struct ThreadJob {
  std::mutex mutex;
  std::condition_variable changed;
  std::string lost;  // why; empty while nobody is
  std::chrono::milliseconds deadline = default_deadline;
};

// Shared by the ranks of a group. A call has three phases: every rank publishes the address of its values, every rank
// sums its part of them for all ranks that want it, and every rank waits until all have finished.
class ThreadGroup {
 public:
  explicit ThreadGroup(int ranks, std::shared_ptr<ThreadJob> job = std::make_shared<ThreadJob>())
      : job_(std::move(job)), places_(static_cast<std::size_t>(ranks)) {}

  [[nodiscard]] int size() const noexcept { return static_cast<int>(places_.size()); }

  // The values of rank r in the running call.
  template <class Value>
  [[nodiscard]] Value* values(int r) const {
    return static_cast<Value*>(places_[static_cast<std::size_t>(r)].values);
  }

  // Returns when all ranks have come with the same call. Throws RankLost, on
  // all of them, if one does not come within the deadline or comes with another
  // call, or if the group is lost before all have come: a call for which all
  // have come is done, for part() waits for everybody.
  void meet(int rank, const Call& call, void* values) {
    std::unique_lock lock(job_->mutex);
    check();
    Place& mine = places_[static_cast<std::size_t>(rank)];
    mine = {call, values, true};
    if (++arrived_ == size()) {
      compare();
      check();
      arrived_ = 0;
      for (Place& place : places_) place.here = false;
      ++meeting_;
      job_->changed.notify_all();
      return;
    }
    const auto met = [&, meeting = meeting_] { return meeting_ != meeting; };
    if (!job_->changed.wait_for(lock, job_->deadline, [&] { return met() || !job_->lost.empty(); }))
      lose(silence(call));
    if (!met()) check();
  }

  // Returns when all ranks have done their share of the call they met for:
  // until then buffers of others are in use.
  void part() {
    std::unique_lock lock(job_->mutex);
    if (++leaving_ == size()) {
      leaving_ = 0;
      ++parting_;
      job_->changed.notify_all();
    } else {
      job_->changed.wait(lock, [&, parting = parting_] { return parting_ != parting; });
    }
  }

  // Calls that wait, and later ones, throw RankLost.
  void lose(const std::string& why) {
    if (job_->lost.empty()) job_->lost = why;
    job_->changed.notify_all();
  }
  void abort(int rank) {
    const std::lock_guard lock(job_->mutex);
    lose(fmt::format("rank {} gave up", rank));
  }

  void set_deadline(std::chrono::milliseconds deadline) {
    const std::lock_guard lock(job_->mutex);
    job_->deadline = deadline;
  }

  // The group's duplicate number i; the first rank to ask makes it.
  [[nodiscard]] std::shared_ptr<ThreadGroup> duplicate(std::size_t i) {
    const std::lock_guard lock(job_->mutex);
    while (duplicates_.size() <= i) duplicates_.push_back(std::make_shared<ThreadGroup>(size(), job_));
    return duplicates_[i];
  }

 private:
  struct Place {
    Call call{};
    void* values = nullptr;
    bool here = false;
  };

  void check() const {
    if (!job_->lost.empty()) throw RankLost(job_->lost);
  }
  void compare() {
    for (int r = 1; r < size(); ++r)
      if (const Call& first = places_[0].call, &other = places_[static_cast<std::size_t>(r)].call; other != first)
        return lose(
            fmt::format("ranks do not do the same: rank 0 calls {}, rank {} calls {}", first.text(), r, other.text()));
  }
  [[nodiscard]] std::string silence(const Call& call) const {
    std::string missing;
    for (int r = 0; r < size(); ++r)
      if (!places_[static_cast<std::size_t>(r)].here) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", r);
    return fmt::format("{}: rank {} did not come within {:.1f} s", call.text(), missing,
                       std::chrono::duration<double>(job_->deadline).count());
  }

  std::shared_ptr<ThreadJob> job_;
  std::vector<Place> places_;
  int arrived_ = 0, leaving_ = 0;
  long meeting_ = 0, parting_ = 0;
  std::vector<std::shared_ptr<ThreadGroup>> duplicates_;
};

}  // namespace detail

class Threads {
 public:
  Threads(std::shared_ptr<detail::ThreadGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return group_->size(); }

  template <HostQueue Queue, class Value>
  void all_reduce(Queue&, Value* values, index count) {
    meet<Value>(Operation::all_reduce, count, values);
    const index first = even_displacement(count, size(), rank_, grain),
                last = even_displacement(count, size(), rank_ + 1, grain);
    sum(values, first, last);
    for (int r = 0; r < size(); ++r)
      if (r != rank_) std::copy(values + first, values + last, group_->values<Value>(r) + first);
    group_->part();
  }
  template <HostQueue Queue, class Value>
  void reduce_scatter(Queue&, Value* values, Displacements displacements) {
    meet<Value>(Operation::reduce_scatter, displacements.back(), values);
    sum(values, displacements[static_cast<std::size_t>(rank_)], displacements[static_cast<std::size_t>(rank_) + 1]);
    group_->part();
  }
  template <HostQueue Queue, class Value>
  void all_gather(Queue&, Value* values, Displacements displacements) {
    meet<Value>(Operation::all_gather, displacements.back(), values);
    for (int r = 0; r < size(); ++r)
      if (const auto at = static_cast<std::size_t>(r); r != rank_)
        std::copy(group_->values<Value>(r) + displacements[at], group_->values<Value>(r) + displacements[at + 1],
                  values + displacements[at]);
    group_->part();
  }
  template <HostQueue Queue, class Value>
  void broadcast(Queue&, Value* values, index count) {
    meet<Value>(Operation::broadcast, count, values);
    if (rank_ != 0) std::copy_n(group_->values<Value>(0), count, values);
    group_->part();
  }

  template <class Queue>
  static void wait(Queue&) noexcept {}
  [[nodiscard]] Threads duplicate() { return {group_->duplicate(duplicates_++), rank_}; }
  void set_deadline(std::chrono::milliseconds deadline) { group_->set_deadline(deadline); }
  void abort() noexcept { group_->abort(rank_); }

 private:
  static constexpr index grain = 64;  // elements: ranks do not write to one cache line

  template <class Value>
  void meet(Operation operation, index count, Value* values) {
    group_->meet(rank_, {operation, type_of<Value>(), count, ++calls_}, values);
  }
  template <class Value>
  void sum(Value* values, index first, index last) {
    sum_in_order(
        size(), [&](int r) { return static_cast<const Value*>(group_->values<Value>(r) + first); }, last - first,
        values + first);
  }

  std::shared_ptr<detail::ThreadGroup> group_;
  int rank_;
  std::int64_t calls_ = 0;
  std::size_t duplicates_ = 0;
};

// Calls body(communicator) on `ranks` threads, one for each rank, and rethrows
// the first exception: of those that are not only about a lost rank, if there
// are any.
template <class Body>
void run_threads(int ranks, Body&& body) {
  const auto group = std::make_shared<detail::ThreadGroup>(ranks);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks)), losses(errors.size());
  std::vector<std::thread> threads;
  threads.reserve(errors.size());
  for (int rank = 0; rank < ranks; ++rank) {
    const auto run = [&, rank] {
      Threads communicator(group, rank);
      try {
        body(communicator);
      } catch (const RankLost&) {
        losses[static_cast<std::size_t>(rank)] = std::current_exception();
        communicator.abort();
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
        communicator.abort();
      }
    };
    try {
      threads.push_back(start_thread("a group of ranks", ranks, run));
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
      Threads(group, rank).abort();
      break;
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& kind : {errors, losses})
    for (const std::exception_ptr& error : kind)
      if (error) std::rethrow_exception(error);
}

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
