// A communicator of the host's for buffers on a device: they travel by way of pinned memory. Several ranks may share a
// device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/stream.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

namespace detail {

// Lets the thread allocate pinned memory while it records.
class WhileRecording {
 public:
  WhileRecording() { cuda::check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode"); }
  WhileRecording(const WhileRecording&) = delete;
  WhileRecording& operator=(const WhileRecording&) = delete;
  ~WhileRecording() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace detail

// A call copies what it needs from the device, has the communicator C called by a thread of the CUDA runtime, and
// copies what has come back: in the queue's order, without the host's waiting, so that it can be recorded into a CUDA
// graph. Calls that fail are noticed by wait(queue), and by the next call; then what is in the buffers is of no use.
//
// The runtime may have one thread for the functions of all streams. Calls of a communicator and its duplicates are
// therefore done one after the other, in the order in which they are made, which must be the same on all ranks. Ranks
// that share a process (C = Threads) may block each other; those that are processes (C = Mpi) do not.
//
// The pinned memory is less than four times as large as the largest call. It is there as long as the communicator or a
// duplicate is; recordings refer to it, and must not be replayed after that.
template <class C>
class Staged {
 public:
  // C: a communicator for host queues. Device: the thread's current one.
  explicit Staged(C communicator) : Staged(std::move(communicator), std::make_shared<Channel>()) {}
  Staged(Staged&&) = default;
  Staged& operator=(Staged&&) = delete;
  // Waits for the device; aborts before if an exception is on its way, for the other ranks may not come any more.
  ~Staged() {
    if (!place_) return;
    if (std::uncaught_exceptions() > exceptions_) abort();
    static_cast<void>(cudaDeviceSynchronize());
  }

  [[nodiscard]] int rank() const noexcept { return place_->communicator.rank(); }
  [[nodiscard]] int size() const noexcept { return place_->communicator.size(); }

  template <class Queue, class Value>
  requires(!HostQueue<Queue>) void all_reduce(Queue& queue, Value* values, index count) {
    const index all[] = {0, count};
    call<Operation::all_reduce>(queue, values, all, {{0, count}}, {{0, count}});
  }
  template <class Queue, class Value>
  requires(!HostQueue<Queue>) void reduce_scatter(Queue& queue, Value* values, Displacements displacements) {
    call<Operation::reduce_scatter>(queue, values, displacements, {{0, displacements.back()}},
                                    {{own(displacements, 0), own(displacements, 1)}});
  }
  template <class Queue, class Value>
  requires(!HostQueue<Queue>) void all_gather(Queue& queue, Value* values, Displacements displacements) {
    call<Operation::all_gather>(queue, values, displacements, {{own(displacements, 0), own(displacements, 1)}},
                                {{0, own(displacements, 0)}, {own(displacements, 1), displacements.back()}});
  }
  template <class Queue, class Value>
  requires(!HostQueue<Queue>) void broadcast(Queue& queue, Value* values, index count) {
    const index all[] = {0, count}, sent = rank() == 0 ? count : 0;
    call<Operation::broadcast>(queue, values, all, {{0, sent}}, {{sent, count}});
  }

  // Ends at C's deadline at the latest, unless the device hangs.
  template <class Queue>
  requires(!HostQueue<Queue>) void wait(Queue& queue) {
    cuda::check(cudaStreamSynchronize(queue.stream()), "a kernel of the step");
    place_->channel->check();
  }
  // Made by all ranks together, when no call is under way.
  [[nodiscard]] Staged duplicate() { return Staged(place_->communicator.duplicate(), place_->channel); }
  void set_deadline(std::chrono::milliseconds deadline) { place_->communicator.set_deadline(deadline); }
  void abort() noexcept { place_->communicator.abort(); }

 private:
  // Shared by a communicator and its duplicates: the stream of their calls, the pinned memory that the device copies
  // from and to, and the first exception of a call.
  class Channel {
   public:
    // Memory for a call; those that follow may use it as well. Smaller memory of earlier calls stays, for recordings
    // refer to it.
    [[nodiscard]] std::byte* room_for(index bytes) {
      if (rooms_.empty() || rooms_.back().size() < bytes) {
        const detail::WhileRecording allowed;
        rooms_.emplace_back((std::max)(bytes, rooms_.empty() ? 4096 : 2 * rooms_.back().size()));
      }
      return rooms_.back().data();
    }
    // Calls body(stream). Its work starts after the work of the queue so far, and later work of the queue waits for it.
    template <class Queue, class Body>
    void follow(Queue& queue, Body&& body) {
      begun_.record(queue.stream());
      begun_.hold(stream_.get());
      body(stream_.get());
      ended_.record(stream_.get());
      ended_.hold(queue.stream());
    }

    void keep(std::exception_ptr error) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::move(error);
    }
    [[nodiscard]] std::exception_ptr first_error() {
      const std::lock_guard lock(mutex_);
      return error_;
    }
    void check() {
      if (const std::exception_ptr error = first_error()) std::rethrow_exception(error);
    }

   private:
    cuda::Stream stream_;
    cuda::Event begun_, ended_;
    std::vector<cuda::PinnedBuffer<std::byte>> rooms_;  // the last is in use
    std::mutex mutex_;
    std::exception_ptr error_;
  };

  struct Place;
  // A host function of the stream with its arguments. It stays as it is, since recorded graphs point to it.
  struct Job {
    Place* place;
    void (*run)(const Job&);
    std::byte* room;
    std::vector<index> displacements;

    bool operator==(const Job&) const = default;
  };
  struct Place {
    C communicator;
    std::shared_ptr<Channel> channel;
    std::vector<std::unique_ptr<Job>> jobs;
  };
  struct Range {
    index first, last;
  };

  Staged(C communicator, std::shared_ptr<Channel> channel)
      : place_(new Place{std::move(communicator), std::move(channel), {}}) {}

  [[nodiscard]] index own(Displacements displacements, std::size_t end) const {
    return displacements[static_cast<std::size_t>(rank()) + end];
  }

  // Copies the ranges `down`, has C make the call, and copies the ranges `up`.
  template <Operation operation, class Queue, class Value>
  void call(Queue& queue, Value* values, Displacements displacements, std::initializer_list<Range> down,
            std::initializer_list<Range> up) {
    place_->channel->check();
    std::byte* const room = place_->channel->room_for(displacements.back() * static_cast<index>(sizeof(Value)));
    Job& job = job_for(
        {place_.get(), &run<operation, Value>, room, std::vector<index>(displacements.begin(), displacements.end())});
    auto* const staged = reinterpret_cast<Value*>(room);
    place_->channel->follow(queue, [&](cudaStream_t stream) {
      for (const Range& range : down)
        copy(stream, values + range.first, staged + range.first, range, cudaMemcpyDeviceToHost);
      cuda::check(cudaLaunchHostFunc(stream, &enter, &job), "cudaLaunchHostFunc");
      for (const Range& range : up)
        copy(stream, staged + range.first, values + range.first, range, cudaMemcpyHostToDevice);
    });
  }
  template <class Value>
  static void copy(cudaStream_t stream, const Value* from, Value* to, Range range, cudaMemcpyKind kind) {
    if (range.first == range.last) return;
    const auto bytes = static_cast<std::size_t>(range.last - range.first) * sizeof(Value);
    cuda::check(cudaMemcpyAsync(to, from, bytes, kind, stream), "cudaMemcpyAsync");
  }
  [[nodiscard]] Job& job_for(Job job) {
    for (const auto& known : place_->jobs)
      if (*known == job) return *known;
    return *place_->jobs.emplace_back(std::make_unique<Job>(std::move(job)));
  }

  static void CUDART_CB enter(void* data) {
    const Job& job = *static_cast<const Job*>(data);
    if (job.place->channel->first_error()) return;
    try {
      job.run(job);
    } catch (...) {
      job.place->channel->keep(std::current_exception());
    }
  }
  template <Operation operation, class Value>
  static void run(const Job& job) {
    Host host;
    C& communicator = job.place->communicator;
    auto* const values = reinterpret_cast<Value*>(job.room);
    if constexpr (operation == Operation::all_reduce)
      communicator.all_reduce(host, values, job.displacements.back());
    else if constexpr (operation == Operation::reduce_scatter)
      communicator.reduce_scatter(host, values, job.displacements);
    else if constexpr (operation == Operation::all_gather)
      communicator.all_gather(host, values, job.displacements);
    else
      communicator.broadcast(host, values, job.displacements.back());
  }

  std::unique_ptr<Place> place_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
