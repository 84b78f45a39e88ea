// One training step of a small model on random images.
#include <fmt/core.h>
#include <tessera/tessera.hpp>

#include <tuple>
#include <vector>

namespace ts = tessera;

double first_loss();

int main() {
  using MoCo = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 32, 16>, ts::heads::Mlp<2, 32, 16>>;
  ts::cpu::Device<> device;
  ts::Trainer<MoCo> trainer(device, ts::optim::AdamW{}, {.batch = 4, .seed = 1});
  std::vector<float> images(8 * MoCo::Encoder::in);
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  auto batch = ts::data::Batch<float, MoCo::Reads>::planned(4);
  std::get<0>(batch.crops).data = images.data();
  const double loss = trainer.step(batch, {.learning_rate = 1e-3});
  fmt::print("loss {} here, {} in the other translation unit\n", loss, first_loss());
  return loss == first_loss() ? 0 : 1;
}
