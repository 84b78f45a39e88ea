// Device: a backend, the ranks that share the work, and how they share it. A trainer runs on one.
#pragma once

#include <utility>

#include "tessera/comm/data_parallel.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/concepts.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/operations.hpp"
#if defined(__CUDACC__)
#include "tessera/cuda/cuda.hpp"
#endif

namespace tessera {
inline namespace TESSERA_ABI {

// Sharing: comm::Replicated, every rank has all optimizer states, or comm::ZeroStage1, a part of them.
template <class Backend_, class Communicator_ = comm::Serial, template <class, class> class Sharing_ = comm::Replicated>
struct Device {
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Scalar = typename Backend::Scalar;
  using Exchange = Sharing_<Backend, Communicator>;
  static_assert(
      Operations<Backend>,
      "tessera: this backend lacks an operation, or has one with other arguments; tessera/operations.hpp lists "
      "them all");
  static_assert(
      tessera::Communicator<Communicator, Backend> && tessera::Communicator<Communicator, typename Backend::Lane>,
      "tessera: this communicator cannot move data of this backend: the CPU has comm::Threads and comm::Mpi, CUDA "
      "has comm::Nccl and comm::Staged");

  Backend backend;
  Communicator communicator;

  // number: threads on the CPU (0: every processor), the device's number on CUDA.
  explicit Device(int number = 0, Communicator ranks = {}) : backend(number), communicator(std::move(ranks)) {}
};

namespace cpu {

// Processors of this machine: cpu::Device device;
template <class Scalar = float, class Communicator = comm::Serial,
          template <class, class> class Sharing = comm::Replicated>
struct Device : tessera::Device<cpu::Backend<Scalar>, Communicator, Sharing> {
  explicit Device(int threads = 0, Communicator ranks = {})
      : tessera::Device<cpu::Backend<Scalar>, Communicator, Sharing>(threads, std::move(ranks)) {}
};

}  // namespace cpu

#if defined(__CUDACC__)
namespace cuda {

// One CUDA device: cuda::Device<bf16> device(0);
template <class Scalar = float, class Communicator = comm::Serial,
          template <class, class> class Sharing = comm::Replicated>
struct Device : tessera::Device<cuda::Backend<Scalar>, Communicator, Sharing> {
  explicit Device(int number = 0, Communicator ranks = {})
      : tessera::Device<cuda::Backend<Scalar>, Communicator, Sharing>(number, std::move(ranks)) {}
};

}  // namespace cuda
#endif

}  // namespace TESSERA_ABI
}  // namespace tessera
