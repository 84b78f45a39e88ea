// Programs on one CUDA device, in bf16. Compiled by nvcc; needs tessera::cuda.
#pragma once

#include <vector>

#include "tessera/comm/fingerprint.hpp"
#include "tessera/cuda/source.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// A Machine (programs/machines.hpp).
struct Cuda {
  using Device = cuda::Device<bf16>;
  template <class Reads, class Images>
  using Source = cuda::DeviceSource<bf16, Reads, Images>;
  static constexpr bool many_ranks = false;
  static constexpr const char* device_help = "number of the CUDA device";
  Device device;

  explicit Cuda(const Options& options) : device(options.device) {}
  void expect_alike(const std::vector<comm::Fact>&) {}
};

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
