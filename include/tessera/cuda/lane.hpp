// Work beside a backend's own, in its order where it must be: what a communicator does while the backend computes.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/stream.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// A stream beside the backend's, which must outlive it. Events order the two, so that a recording of the backend takes
// in what is started and joined within it.
template <class Backend>
class Lane {
 public:
  explicit Lane(Backend& backend) : backend_(backend) {}
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_.get(); }
  [[nodiscard]] bool planning() const noexcept { return backend_.planning(); }

  // Calls body(lane) now. What it puts on the stream begins when the work that the backend has been given so far is
  // done, and is done in order with what was started before. A body that throws is joined.
  template <class Body>
  void start(Body&& body) {
    if (planning()) return std::forward<Body>(body)(*this);
    started_.record(backend_.stream());
    started_.hold(stream());
    running_ = true;
    try {
      std::forward<Body>(body)(*this);
    } catch (...) {
      join();
      throw;
    }
  }

  // The backend's further work begins when all that was started is done. May be left out before another start, but not
  // at the end of a recording.
  void join() {
    if (!std::exchange(running_, false)) return;
    joined_.record(stream());
    joined_.hold(backend_.stream());
  }

  // The host waits for what was started.
  void wait() const { check(cudaStreamSynchronize(stream()), "work beside the step"); }

 private:
  Backend& backend_;
  Stream stream_;
  Event started_, joined_;
  bool running_ = false;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
