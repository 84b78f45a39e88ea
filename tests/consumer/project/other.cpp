// The same step in another translation unit, which also uses the optional components.
#include <tessera/data/idx.hpp>
#include <tessera/io/safetensors.hpp>
#include <tessera/tessera.hpp>

#include <vector>

namespace ts = tessera;

double first_loss() {
  using Method = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 32, 16>, ts::heads::Mlp<2, 32, 16>>;
  ts::cpu::Backend<float> backend;
  ts::comm::Serial communicator;
  ts::Trainer<Method, ts::optim::AdamW, ts::cpu::Backend<float>, ts::comm::Serial> trainer(backend, communicator, {}, 4,
                                                                                           1);
  std::vector<float> images(8 * Method::in);
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  const double loss = trainer.step({images.data(), 8}, {1e-3, {}});

  return loss;
}
