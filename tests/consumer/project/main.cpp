// One training step of a small model on random images.
#include <fmt/core.h>
#include <tessera/tessera.hpp>

#include <vector>

namespace ts = tessera;

double first_loss();

int main() {
  using Method = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 32, 16>, ts::heads::Mlp<2, 32, 16>>;
  ts::cpu::Backend<float> backend;
  ts::comm::Serial communicator;
  ts::Trainer<Method, ts::optim::AdamW, ts::cpu::Backend<float>, ts::comm::Serial> trainer(backend, communicator, {}, 4,
                                                                                           1);
  std::vector<float> images(8 * Method::in);
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  const double loss = trainer.step({images.data(), 8}, {1e-3, {}});
  fmt::print("loss {} here, {} in the other translation unit\n", loss, first_loss());
  return loss == first_loss() ? 0 : 1;
}
