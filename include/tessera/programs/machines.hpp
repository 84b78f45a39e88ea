// What programs train on: a device, a source of batches for it, and the ranks that share the work. programs/mpi.hpp,
// cuda.hpp and nccl.hpp have the others.
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
//   static void add_flags(CLI::App&, Options&);
// };

// The processors of this machine, one process.
struct Cpu {
  using Device = cpu::Device<>;
  template <class Reads, class Images>
  using Source = data::HostSource<float, Reads, Images>;
  Device device;

  explicit Cpu(const Options& options) : device(options.recipe.threads) {}
  void expect_alike(const std::vector<comm::Fact>&) {}
  static void add_flags(auto&, Options&) {}
};

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
