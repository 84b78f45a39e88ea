// Programs on many CUDA devices, in bf16, a process for each; started by torchrun, srun, mpirun, or anything that sets
// RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Compiled by nvcc; needs tessera::nccl.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "tessera/comm/fingerprint.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/comm/rendezvous/rendezvous.hpp"
#include "tessera/cuda/source.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// A Machine (programs/machines.hpp). The rendezvous watches the ranks: when one is lost, the calls that wait for it
// end.
class NcclCuda {
 public:
  using Device = cuda::Device<bf16, comm::Recorded<comm::Nccl>>;
  template <class Reads, class Images>
  using Source = cuda::DeviceSource<bf16, Reads, Images>;
  static constexpr bool many_ranks = true;
  static constexpr const char* device_help = "number of the CUDA device, where the launcher sets no local rank";

 private:
  const comm::Place place_ = comm::find_place();
  std::mutex mutex_;
  comm::Nccl* watched_ = nullptr;
  comm::Store store_{place_, {.token = comm::read_token()}, [this](const std::string& why) { lose(why); }};
  const int number_;

 public:
  Device device;

  // NCCL needs the rank's device to be the current one, which number_ sees to.
  explicit NcclCuda(const Options& options)
      : number_(cuda::open_device(place_.local_rank < 0 ? options.device : place_.local_rank)),
        device(number_, comm::Recorded<comm::Nccl>(comm::Nccl(place_.rank, place_.size, common_id()))) {
    watch(&device.communicator.inner());
  }
  ~NcclCuda() { watch(nullptr); }

  void expect_alike(const std::vector<comm::Fact>& facts) { comm::expect_alike(store_, facts); }

 private:
  [[nodiscard]] ncclUniqueId common_id() {
    ncclUniqueId id{};
    if (place_.rank == 0) id = comm::Nccl::new_id();
    const auto blob = store_.broadcast(std::as_bytes(std::span(&id, 1)));
    std::memcpy(&id, blob.data(), sizeof id);
    return id;
  }
  void watch(comm::Nccl* nccl) {
    const std::lock_guard lock(mutex_);
    watched_ = nccl;
  }
  void lose(const std::string& why) {
    fmt::print(stderr, "pretrain_nccl: {}\n", why);
    const std::lock_guard lock(mutex_);
    if (watched_ != nullptr) watched_->abort();
  }
};

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
