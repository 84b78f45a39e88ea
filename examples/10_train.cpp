// Trains a small Vision Transformer with MoCo v3 in a loop of one's own: 10_train FOLDER, with MNIST's files in FOLDER.
#include <fmt/format.h>

#include "tessera/data/idx.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/tessera.hpp"
#include "tessera/train/features.hpp"

namespace ts = tessera;

// A model is a type. Each policy has a default; they may stand in any order.
using Encoder = ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>,
                              ts::vit::policies<ts::embed::FrozenPatches,  // | embed::Patches | embed::ConvStem
                                                ts::position::SinCos2d>>;  // | position::Learned | position::None
using MoCo = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, 256, 64>, ts::heads::Mlp<2, 256, 64>>;

int main(int argc, char** argv) try {
  if (argc < 2) ts::fail("usage: 10_train FOLDER [STEPS]");
  const long steps = argc > 2 ? std::stol(argv[2]) : 200;
  const ts::data::IdxDataset pictures(argv[1], "train"), test(argv[1], "t10k");
  const auto normalization = ts::data::measure_normalization(pictures);

  ts::cpu::Device device;  // every processor; ts::cuda::Device<ts::bf16> in a file that nvcc compiles
  ts::Trainer<MoCo, ts::cpu::Device<>> trainer(device, ts::optim::AdamW{.weight_decay = 0.1}, {.batch = 64, .seed = 1});
  // The objective's type says what it reads: two random views of every image.
  ts::data::Loader loader(pictures, ts::data::reads<MoCo>(),
                          {.batch = 64,
                           .views = {ts::data::moco_v3_views(0.7)[0], ts::data::moco_v3_views(0.7)[1]},
                           .normalization = normalization,
                           .seed = 1});
  for (const auto& made : loader) {
    const double progress = static_cast<double>(trainer.steps()) / static_cast<double>(steps);
    const double loss = trainer.step(made.batch(), {.learning_rate = ts::optim::learning_rate(2e-3, progress, 0.1, 1),
                                                    .settings = {.temperature = 0.1, .momentum = 0.95}});
    if (trainer.steps() % 50 == 0) fmt::print("step {:4}  loss {:.4f}\n", trainer.steps(), loss);
    if (trainer.steps() >= steps) break;
  }

  // The features are judged by k-NN: test images are classified by their nearest training images.
  const auto bank = ts::features_of(trainer, ts::data::Spread(pictures, 2000), normalization);
  const auto queries = ts::features_of(trainer, ts::data::Spread(test, 1000), normalization);
  ts::ThreadPool pool;
  fmt::print("k-NN accuracy {:.3f}\n",
             ts::eval::knn_accuracy(pool, bank.view(), bank.labels, queries.view(), queries.labels));
} catch (const std::exception& problem) {
  fmt::print(stderr, "10_train: {}\n", problem.what());
  return 2;
}
