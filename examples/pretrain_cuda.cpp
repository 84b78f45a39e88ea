// Pre-trains a Vision Transformer with MoCo v3 on a CUDA device, in bf16. Compiled by nvcc.
#include "pretrain.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/cuda/feed.hpp"

namespace {

namespace ts = tessera;

struct Cuda {
  using Backend = ts::cuda::Backend<ts::bf16>;
  using Communicator = ts::comm::Serial;
  template <class B, class Method, class Dataset>
  using Feed = ts::cuda::DeviceFeed<B, Method, Dataset>;

  template <class B, class C>
  using Sharing = ts::comm::Replicated<B, C>;

  Backend backend;
  Communicator communicator;

  explicit Cuda(const examples::Options& options) : backend(options.device) {}
  static void expect_alike(const std::vector<ts::comm::Fact>&) {}
  static void add_options(CLI::App& app, examples::Options& options) {
    app.add_option("--device", options.device, "number of the CUDA device");
  }
};

}  // namespace

int main(int argc, char** argv) {
  return examples::guarded("pretrain_cuda", [&] { return examples::pretrain<Cuda>(argc, argv); });
}
