// The same on a CUDA device, if there is one.
#include <cstdio>
#include <tessera/tessera.hpp>
#include <vector>

namespace ts = tessera;

using Encoder = ts::VisionTransformer<ts::image<28, 1>, ts::patch<7>, 48, 2, 4>;
using Method = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, 64, 32>, ts::heads::Mlp<2, 64, 32>>;
using Backend = ts::cuda::Backend<ts::bf16>;

int main() {
  try {
    Backend backend;
    ts::comm::Serial communicator;
    ts::Trainer<Method, ts::optim::AdamW, Backend, ts::comm::Serial> trainer(backend, communicator, {}, 4, 1);
    std::vector<ts::bf16> images;
    for (int i = 0; i < 8 * Method::in; ++i) images.emplace_back(static_cast<float>(i % 13) / 13);
    const Backend::Buffer<ts::bf16> views(8 * Method::in);
    backend.upload(views.size(), images.data(), views.data());
    std::printf("loss %f\n", trainer.step({views.data(), 8}, {1e-3, {}}));
  } catch (const ts::Error& error) {
    std::printf("%s\n", error.what());
  }
}
