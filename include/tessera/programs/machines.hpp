// Machine: a device, a source of batches for it, and the ranks that share the work of a program. This header has Cpu
// and CpuBf16; programs/mpi.hpp, cuda.hpp and nccl.hpp have the others.
#pragma once

#include <vector>

#include "tessera/comm/fingerprint.hpp"
#include "tessera/data/source.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// struct Machine {
//   using Device = ...;                                                    // tessera::Device or a relative
//   template <class Reads, class Images> using Source = ...;               // data::HostSource, cuda::DeviceSource
//   Device device;
//   explicit Machine(const Options&);
//   void expect_alike(const std::vector<comm::Fact>&);                     // throws Error where ranks differ
//   static constexpr bool many_ranks = false;                              // each process is one of many
//   static constexpr const char* device_help = "";                         // of --device, where there is such a flag
// };

// The processors of this machine, one process. Scalar: float or bf16.
template <class Scalar>
struct Processors {
  using Device = cpu::Device<Scalar>;
  template <class Reads, class Images>
  using Source = data::HostSource<Scalar, Reads, Images>;
  static constexpr bool many_ranks = false;
  static constexpr const char* device_help = "";
  Device device;

  explicit Processors(const Options& options) : device(options.recipe.threads) {}
  void expect_alike(const std::vector<comm::Fact>&) {}
};
using Cpu = Processors<float>;
using CpuBf16 = Processors<bf16>;

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
