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
  Device device;

  explicit Cuda(const Options& options) : device(options.device) {}
  void expect_alike(const std::vector<comm::Fact>&) {}
  static void add_flags(auto& app, Options& options) {
    app.add_option("--device", options.device, "number of the CUDA device");
  }
};

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
