// Pre-trains a Vision Transformer with MoCo v3 on many CUDA devices, in bf16, a process for each; started by torchrun,
// srun, mpirun, or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Compiled by nvcc.
#include <cstring>
#include <mutex>
#include <span>
#include <string>

#include "pretrain.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/comm/rendezvous/rendezvous.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/cuda/feed.hpp"

namespace {

namespace ts = tessera;

class NcclCuda {
 public:
  using Backend = ts::cuda::Backend<ts::bf16>;
  using Communicator = ts::comm::Recorded<ts::comm::Nccl>;
  template <class B, class Method, class Dataset>
  using Feed = ts::cuda::DeviceFeed<B, Method, Dataset>;
  template <class B, class C>
  using Sharing = ts::comm::Replicated<B, C>;

 private:
  // The store watches the ranks: when one is lost, the calls that wait for it end.
  const ts::comm::Place place_ = ts::comm::find_place();
  std::mutex mutex_;
  ts::comm::Nccl* watched_ = nullptr;
  ts::comm::Store store_{place_, {.token = ts::comm::read_token()}, [this](const std::string& why) { lose(why); }};

 public:
  Backend backend;
  Communicator communicator;

  explicit NcclCuda(const examples::Options& options)
      : backend(place_.local_rank < 0 ? options.device : place_.local_rank),
        communicator(ts::comm::Nccl(place_.rank, place_.size, common_id())) {
    watch(&communicator.inner());
  }
  ~NcclCuda() { watch(nullptr); }

  void expect_alike(const std::vector<ts::comm::Fact>& facts) { ts::comm::expect_alike(store_, facts); }
  static void add_options(CLI::App& app, examples::Options& options) {
    app.add_option("--device", options.device, "number of the CUDA device, where the launcher sets no local rank");
  }

 private:
  [[nodiscard]] ncclUniqueId common_id() {
    ncclUniqueId id{};
    if (place_.rank == 0) id = ts::comm::Nccl::new_id();
    const auto blob = store_.broadcast(std::as_bytes(std::span(&id, 1)));
    std::memcpy(&id, blob.data(), sizeof id);
    return id;
  }
  void watch(ts::comm::Nccl* nccl) {
    const std::lock_guard lock(mutex_);
    watched_ = nccl;
  }
  void lose(const std::string& why) {
    fmt::print(stderr, "pretrain_nccl: {}\n", why);
    const std::lock_guard lock(mutex_);
    if (watched_ != nullptr) watched_->abort();
  }
};

}  // namespace

int main(int argc, char** argv) {
  return examples::guarded("pretrain_nccl", [&] { return examples::pretrain<NcclCuda>(argc, argv); });
}
