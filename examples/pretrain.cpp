// Pre-trains a Vision Transformer with MoCo v3 on the processor.
#include "pretrain.hpp"

namespace {

namespace ts = tessera;

struct Cpu {
  using Backend = ts::cpu::Backend<float>;
  template <class B, class Method, class Dataset>
  using Feed = ts::HostFeed<B, Method, Dataset>;

  static Backend open(const examples::Options& options) { return Backend(options.recipe.threads); }
  static void add_options(CLI::App&, examples::Options&) {}
};

}  // namespace

int main(int argc, char** argv) {
  return examples::guarded("pretrain", [&] { return examples::pretrain<Cpu>(argc, argv); });
}
