// Streams and events of the CUDA runtime with an owner.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/cuda/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// A handle of a C library, with the function that gives it back.
template <class Handle, auto destroy>
struct Destroy {
  void operator()(Handle* handle) const noexcept { static_cast<void>(destroy(handle)); }
};
template <class Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<std::remove_pointer_t<Handle>, destroy>>;

class Stream {
 public:
  Stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    stream_.reset(stream);
  }
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_.get(); }

 private:
  Owned<cudaStream_t, cudaStreamDestroy> stream_;
};

// An event of a stream.
class Event {
 public:
  Event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    event_.reset(event);
  }

  void record(cudaStream_t stream) const { check(cudaEventRecord(event_.get(), stream), "cudaEventRecord"); }
  // hold(stream): work that is queued on `stream` after this call waits for the event. wait(): blocks the host until
  // then. An event that was never recorded does not wait.
  void hold(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_.get(), 0), "cudaStreamWaitEvent"); }
  void wait() const { check(cudaEventSynchronize(event_.get()), "work on the device"); }
  // Milliseconds from `start` to this event; blocks the host until this event.
  [[nodiscard]] float since(const Event& start) const {
    wait();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start.event_.get(), event_.get()), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  Owned<cudaEvent_t, cudaEventDestroy> event_;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
