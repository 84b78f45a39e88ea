// Pre-trains a Vision Transformer with MoCo v3 on the processor.
#include "pretrain.hpp"

namespace {

namespace ts = tessera;

struct Cpu {
  using Backend = ts::cpu::Backend<float>;
  using Communicator = ts::comm::Serial;
  template <class B, class Method, class Dataset>
  using Feed = ts::HostFeed<B, Method, Dataset>;
  template <class B, class C>
  using Sharing = ts::comm::Replicated<B, C>;

  Backend backend;
  Communicator communicator;

  explicit Cpu(const examples::Options& options) : backend(options.recipe.threads) {}
  static void expect_alike(const std::vector<ts::comm::Fact>&) {}
  static void add_options(CLI::App&, examples::Options&) {}
};

}  // namespace

int main(int argc, char** argv) {
  return examples::guarded("pretrain", [&] { return examples::pretrain<Cpu>(argc, argv); });
}
