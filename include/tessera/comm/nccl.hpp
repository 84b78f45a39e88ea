// Ranks with a CUDA device each, over NCCL. Needs tessera::nccl.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/cuda/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// A backend or a lane of a CUDA device.
template <class Queue>
concept DeviceQueue = !HostQueue<Queue>;

namespace detail {

[[nodiscard]] constexpr ncclDataType_t nccl_type(Type type) {
  constexpr ncclDataType_t types[] = {ncclInt8, ncclInt32, ncclInt64, ncclBfloat16, ncclFloat32, ncclFloat64};
  return types[static_cast<int>(type)];
}

// True if NCCL accepted a call, which it may still be working on.
[[nodiscard]] constexpr bool taken(ncclResult_t result) {
  return result == ncclSuccess || result == ncclInProgress;
}

[[nodiscard]] inline ncclConfig_t nonblocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

// Prepares NCCL before its first call: asks for one order of the calls of all communicators on a device, because calls
// that run at the same time could otherwise wait for each other for ever. Throws Error if the environment forbids it or
// NCCL is too old. Sets an environment variable if it is missing, and so must run before threads that read the
// environment.
inline void prepare_nccl() {
  constexpr const char* variable = "NCCL_LAUNCH_ORDER_IMPLICIT";
  constexpr int needed = NCCL_VERSION(2, 26, 0);
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (::setenv(variable, "1", 0) != 0) fail("{}=1 cannot be set in the environment", variable);
  // NCCL reads it as strtoll does, and takes what is no number for 0.
  if (const char* const value = std::getenv(variable); std::strtoll(value, nullptr, 0) == 0)
    fail("{} is '{}', with which calls of NCCL that run at the same time can deadlock; set it to 1 or unset it",
         variable, value);
  int version = 0;
  if (const ncclResult_t result = ncclGetVersion(&version); result != ncclSuccess)
    fail("NCCL does not tell its version: {}", ncclGetErrorString(result));
  if (version < needed) {
    const int major = version < 10000 ? 1000 : 10000;  // before 2.9 a version had a digit less
    fail("NCCL {}.{}.{} was found, but 2.26 or later is needed: older ones do not know {}", version / major,
         version % major / 100, version % 100, variable);
  }
}

// Pauses between polls: none at first, 0.1 ms later.
class Pauses {
 public:
  void next() {
    if (++count_ < 100) return std::this_thread::yield();
    std::this_thread::sleep_for(pause_);
    pause_ = (std::min)(2 * pause_, std::chrono::microseconds(100));
  }

 private:
  int count_ = 0;
  std::chrono::microseconds pause_{10};
};

// Shared by a communicator and its duplicates: their non-blocking NCCL communicators. Every use of one is short and
// holds the lock, so that any thread can abort all of them at any time.
class NcclGroup {
 public:
  struct Member {
    ncclComm_t handle = nullptr;  // null before NCCL has made it, and once it is closed or aborted
    Call last{};                  // number 0: none yet
  };

  explicit NcclGroup(std::chrono::milliseconds deadline) : deadline_(deadline) {}

  void set_deadline(std::chrono::milliseconds deadline) {
    const std::lock_guard lock(mutex_);
    deadline_ = deadline;
  }
  [[nodiscard]] Member& add() {
    const std::lock_guard lock(mutex_);
    return *members_.emplace_back(std::make_unique<Member>());
  }
  // Counts and returns the member's next call. Throws RankLost if the group is lost.
  [[nodiscard]] Call next(Member& member, Operation operation, Type type, index count) {
    const std::lock_guard lock(mutex_);
    check();
    return member.last = {operation, type, count, member.last.number + 1};
  }

  // Runs body(), which passes work to NCCL, under the lock; returns when NCCL has accepted it. Throws RankLost if the
  // group is lost or gets lost now. `what` names the work in the message.
  template <class Body>
  void call(Member& member, const std::string& what, Body&& body) {
    {
      const std::lock_guard lock(mutex_);
      check();
      if (const ncclResult_t result = body(); !taken(result)) fail(member, result, what);
    }
    settle(member, what);
  }
  // Returns when NCCL has finished the member's pending request.
  void settle(const Member& member, const std::string& what) {
    wait([&] { return what; }, [&] { return settled(member, what); });
  }
  // Returns when the stream's work is done. Polls every member meanwhile, since the work may belong to any of them.
  void wait_for(cudaStream_t stream) {
    wait([&] { return calls(); }, [&] { return idle(stream); });
  }

  void abort(int rank) {
    const std::lock_guard lock(mutex_);
    give_up(fmt::format("rank {} gave up", rank));
  }
  // Ends a member that is no longer used; waits for its work, at most until the deadline.
  void close(Member& member) noexcept {
    try {
      const std::string what = "the end of a communicator";
      call(member, what, [&] { return ncclCommFinalize(member.handle); });
      const std::lock_guard lock(mutex_);
      check();
      static_cast<void>(ncclCommDestroy(std::exchange(member.handle, nullptr)));
    } catch (const std::exception&) {
      // The group is lost, and all of it has been aborted.
    }
  }

 private:
  void check() const {
    if (!lost_.empty()) throw RankLost(lost_);
  }

  // Returns when done(). what(), under the lock, names the awaited event in the message.
  template <class Text, class Done>
  void wait(Text&& what, Done&& done) {
    const auto start = std::chrono::steady_clock::now();
    for (Pauses pauses; !done(); pauses.next()) {
      const std::lock_guard lock(mutex_);
      check();
      if (std::chrono::steady_clock::now() - start < deadline_) continue;
      give_up(
          fmt::format("{}: not done within {:.1f} s; another rank did not come, or is cut off (NCCL does not know "
                      "which)",
                      what(), std::chrono::duration<double>(deadline_).count()));
      check();
    }
  }
  [[nodiscard]] bool settled(const Member& member, const std::string& what) {
    const std::lock_guard lock(mutex_);
    check();
    return member.handle != nullptr && state(member, what) == ncclSuccess;
  }
  [[nodiscard]] bool idle(cudaStream_t stream) {
    const cudaError_t status = cudaStreamQuery(stream);
    const std::lock_guard lock(mutex_);
    check();
    for (const auto& member : members_)
      if (member->handle != nullptr) static_cast<void>(state(*member, member->last.text()));
    if (status == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());
      return false;
    }
    cuda::check(status, "a kernel of the step");
    return true;
  }
  ncclResult_t state(const Member& member, const std::string& what) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(member.handle, &state);
    if (asked != ncclSuccess) fail(member, asked, what);
    if (!taken(state)) fail(member, state, what);
    return state;
  }

  // Throws Error if the program uses NCCL wrongly, RankLost otherwise.
  [[noreturn]] void fail(const Member& member, ncclResult_t result, const std::string& what) {
    const char* const detail = ncclGetLastError(member.handle);
    std::string why = fmt::format("{}: NCCL failed: {}", what, ncclGetErrorString(result));
    if (detail != nullptr && *detail != '\0') why += fmt::format(": {}", detail);
    const bool misused = result == ncclInvalidUsage || result == ncclInvalidArgument;
    if (misused) why += "; each rank needs a device of its own, and all the same calls";
    give_up(why);
    if (misused) throw Error(why);
    throw RankLost(why);
  }
  void give_up(const std::string& why) {
    if (!lost_.empty()) return;
    lost_ = why;
    for (const auto& member : members_)
      if (ncclComm_t const handle = std::exchange(member->handle, nullptr); handle != nullptr)
        static_cast<void>(ncclCommAbort(handle));
  }
  // The last call of each member, for messages: the device may be waiting for it.
  [[nodiscard]] std::string calls() const {
    std::string text;
    for (const auto& member : members_)
      if (member->last.number > 0) text += fmt::format("{}{}", text.empty() ? "up to " : " and ", member->last.text());
    return text.empty() ? "work on the device" : text;
  }

  std::mutex mutex_;
  std::chrono::milliseconds deadline_;
  std::string lost_;  // why; empty while nobody is
  std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace detail

// One rank's end of a group of devices. Calls are put on the queue's stream and can be recorded into a CUDA graph; the
// host waits in wait(queue), and until NCCL has accepted a call. The order of a sum is that of the algorithm that NCCL
// picks: equal bits need the same ranks and NCCL_ALGO=Ring in the environment. A communicator and its duplicates, whose
// calls may run at the same time, need one order of all their calls. NCCL 2.26 and later keep it with
// NCCL_LAUNCH_ORDER_IMPLICIT=1, which is set here unless the environment has it; 0 is refused.
//
// Recordings must be destroyed before the communicator: NCCL keeps their resources until then. A communicator that an
// exception destroys aborts, so that the other ranks do not wait.
class Nccl {
 public:
  // The id by which the ranks of a group find each other: one rank makes it and sends it to the others. Throws Error if
  // NCCL cannot be used.
  [[nodiscard]] static ncclUniqueId new_id() {
    detail::prepare_nccl();
    ncclUniqueId id;
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
      fail("NCCL cannot make an id: {}: {}", ncclGetErrorString(result), ncclGetLastError(nullptr));
    return id;
  }

  // Rank `rank` of `size`, on the thread's current device; returns when all ranks have come. Throws Error for wrong
  // numbers, for a device that another rank has, and if NCCL cannot be used; RankLost if a rank does not come before
  // the deadline.
  Nccl(int rank, int size, const ncclUniqueId& id, std::chrono::milliseconds deadline = default_deadline)
      : Nccl(std::make_shared<detail::NcclGroup>(deadline), rank, size) {
    if (size < 1 || rank < 0 || rank >= size) fail("rank {} of {} ranks: there is no such rank", rank, size);
    detail::prepare_nccl();
    const std::string what = fmt::format("rank {} of {} meets the others", rank, size);
    ncclConfig_t config = detail::nonblocking();
    group_->call(*member_, what, [&] { return ncclCommInitRankConfig(&member_->handle, size, id, rank, &config); });
  }
  Nccl(Nccl&&) = default;
  Nccl& operator=(Nccl&&) = delete;
  ~Nccl() {
    if (!group_) return;
    if (std::uncaught_exceptions() > exceptions_) abort();
    group_->close(*member_);
  }

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }

  template <DeviceQueue Queue, class Value>
  void all_reduce(Queue& queue, Value* values, index count) {
    call<Value>(Operation::all_reduce, count, [&](ncclDataType_t type) {
      return ncclAllReduce(values, values, static_cast<std::size_t>(count), type, ncclSum, member_->handle,
                           queue.stream());
    });
  }
  template <DeviceQueue Queue, class Value>
  void reduce_scatter(Queue& queue, Value* values, Displacements displacements) {
    call<Value>(Operation::reduce_scatter, displacements.back(), [&](ncclDataType_t type) {
      if (even(displacements))
        return ncclReduceScatter(values, values + part(displacements, rank_).first, part(displacements, rank_).size,
                                 type, ncclSum, member_->handle, queue.stream());
      return for_parts(displacements, [&](int root, Part at) {
        return ncclReduce(values + at.first, values + at.first, at.size, type, ncclSum, root, member_->handle,
                          queue.stream());
      });
    });
  }
  template <DeviceQueue Queue, class Value>
  void all_gather(Queue& queue, Value* values, Displacements displacements) {
    call<Value>(Operation::all_gather, displacements.back(), [&](ncclDataType_t type) {
      if (even(displacements))
        return ncclAllGather(values + part(displacements, rank_).first, values, part(displacements, rank_).size, type,
                             member_->handle, queue.stream());
      return for_parts(displacements, [&](int root, Part at) {
        return ncclBroadcast(values + at.first, values + at.first, at.size, type, root, member_->handle,
                             queue.stream());
      });
    });
  }
  template <DeviceQueue Queue, class Value>
  void broadcast(Queue& queue, Value* values, index count) {
    call<Value>(Operation::broadcast, count, [&](ncclDataType_t type) {
      return ncclBroadcast(values, values, static_cast<std::size_t>(count), type, 0, member_->handle, queue.stream());
    });
  }

  template <DeviceQueue Queue>
  void wait(Queue& queue) {
    group_->wait_for(queue.stream());
  }
  // Made by all ranks together.
  [[nodiscard]] Nccl duplicate() {
    Nccl copy(group_, rank_, size_);
    const std::string what = fmt::format("rank {} of {} duplicates the communicator", rank_, size_);
    ncclConfig_t config = detail::nonblocking();
    group_->call(*member_, what,
                 [&] { return ncclCommSplit(member_->handle, 0, rank_, &copy.member_->handle, &config); });
    group_->settle(*copy.member_, what);
    return copy;
  }
  void set_deadline(std::chrono::milliseconds deadline) { group_->set_deadline(deadline); }
  void abort() noexcept { group_->abort(rank_); }

 private:
  struct Part {
    index first;
    std::size_t size;
  };

  Nccl(std::shared_ptr<detail::NcclGroup> group, int rank, int size)
      : group_(std::move(group)), member_(&group_->add()), rank_(rank), size_(size) {}

  [[nodiscard]] static Part part(Displacements displacements, int rank) {
    const auto at = static_cast<std::size_t>(rank);
    return {displacements[at], static_cast<std::size_t>(displacements[at + 1] - displacements[at])};
  }
  [[nodiscard]] bool even(Displacements displacements) const {
    for (int rank = 1; rank < size_; ++rank)
      if (part(displacements, rank).size != part(displacements, 0).size) return false;
    return true;
  }
  // Calls each(rank, its part) for the parts that are not empty, grouped into one NCCL call.
  template <class Each>
  ncclResult_t for_parts(Displacements displacements, Each&& each) const {
    if (const ncclResult_t started = ncclGroupStart(); started != ncclSuccess) return started;
    ncclResult_t result = ncclSuccess;
    for (int rank = 0; rank < size_ && detail::taken(result); ++rank)
      if (const Part at = part(displacements, rank); at.size > 0) result = each(rank, at);
    const ncclResult_t ended = ncclGroupEnd();
    return detail::taken(result) ? ended : result;
  }
  template <class Value, class Body>
  void call(Operation operation, index count, Body&& body) {
    constexpr Type type = type_of<Value>();
    const Call call = group_->next(*member_, operation, type, count);
    if (count > 0) group_->call(*member_, call.text(), [&] { return body(detail::nccl_type(type)); });
  }

  std::shared_ptr<detail::NcclGroup> group_;
  detail::NcclGroup::Member* member_;
  int rank_, size_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
