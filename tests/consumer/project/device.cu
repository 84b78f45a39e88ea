// The same on a CUDA device, if there is one.
#include <cstdio>
#include <tessera/tessera.hpp>
#include <tuple>
#include <vector>

namespace ts = tessera;

using Encoder = ts::VisionTransformer<ts::image<28, 1>, ts::patch<7>, 48, 2, 4>;
using MoCo = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, 64, 32>, ts::heads::Mlp<2, 64, 32>>;
using Device = ts::cuda::Device<ts::bf16>;

int main() {
  try {
    Device device;
    ts::Trainer<MoCo, Device> trainer(device, ts::optim::AdamW{}, {.batch = 4, .seed = 1});
    std::vector<ts::bf16> images;
    for (int i = 0; i < 8 * Encoder::in; ++i) images.emplace_back(static_cast<float>(i % 13) / 13);
    const ts::cuda::Buffer<ts::bf16> views(8 * Encoder::in);
    device.backend.upload(views.size(), images.data(), views.data());
    auto batch = ts::data::Batch<ts::bf16, MoCo::Reads>::planned(4);
    std::get<0>(batch.crops).data = views.data();
    std::printf("loss %f\n", trainer.step(batch, {.learning_rate = 1e-3}));
  } catch (const ts::Error& error) {
    std::printf("%s\n", error.what());
  }
}
