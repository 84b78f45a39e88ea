// A lane: a stream beside the backend's, for the calls of a communicator while the backend computes.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/stream.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// The backend must outlive the lane. Events order the two streams, so that a recording of the backend contains the work
// that is started and joined within it.
template <class Backend>
class Lane {
 public:
  explicit Lane(Backend& backend) : backend_(backend) {}
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_.get(); }
  [[nodiscard]] bool planning() const noexcept { return backend_.planning(); }

  // Calls body(lane) now. Its work on the stream follows the backend's work so far and the lane's earlier work. A body
  // that throws is joined.
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

  // Later work of the backend waits for the lane's work. It may be left out before another start, but not at the end of
  // a recording.
  void join() {
    if (!std::exchange(running_, false)) return;
    joined_.record(stream());
    joined_.hold(backend_.stream());
  }

  // Blocks the host until the lane's work is done.
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
