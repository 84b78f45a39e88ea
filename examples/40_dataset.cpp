// A data set of one's own: how many images there are, and how to get one. 40_dataset trains on pictures that it draws.
#include <fmt/format.h>

#include <cmath>

#include "tessera/data/loader.hpp"
#include "tessera/tessera.hpp"

namespace ts = tessera;

// Discs and squares of random place and size, drawn when they are asked for.
class Shapes {
 public:
  explicit Shapes(int size) : size_(size) {}

  [[nodiscard]] int size() const { return size_; }
  // 0: a disc, 1: a square. A data set without labels leaves this out.
  [[nodiscard]] int label(int i) const { return i % 2; }
  // Image i: in memory of the data set, or drawn into `scratch`. Called by many threads, each with its own scratch.
  [[nodiscard]] ts::data::ImageView decode(int i, ts::data::Image& scratch) const {
    constexpr int side = 28;
    ts::Random random(7, ts::Purpose::test, 0, static_cast<std::uint32_t>(i));
    const float x = random.uniform(8, 20), y = random.uniform(8, 20), radius = random.uniform(3, 8);
    scratch.resize(side, side, 1);
    for (int row = 0; row < side; ++row)
      for (int column = 0; column < side; ++column) {
        const float dx = std::abs(static_cast<float>(column) - x), dy = std::abs(static_cast<float>(row) - y);
        const bool inside = label(i) == 0 ? dx * dx + dy * dy < radius * radius : dx < radius && dy < radius;
        scratch.row(row)[column] = inside ? 220 : 30;
      }
    return scratch;
  }

 private:
  int size_;
};
static_assert(ts::data::LabelledDataset<Shapes>);

using MoCo = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 64, 32>, ts::heads::Mlp<2, 64, 32>>;

int main() {
  const Shapes shapes(512);
  ts::cpu::Device device;
  ts::Trainer<MoCo, ts::cpu::Device<>> trainer(device, ts::optim::AdamW{}, {.batch = 32, .seed = 1});
  ts::data::Loader loader(shapes, ts::data::reads<MoCo>(),
                          {.batch = 32, .normalization = ts::data::measure_normalization(shapes), .seed = 1});
  for (const auto& made : loader) {
    const double loss = trainer.step(made.batch(), {.learning_rate = 1e-3});
    if (trainer.steps() % 8 == 0) fmt::print("step {:3}  loss {:.4f}\n", trainer.steps(), loss);
    if (trainer.steps() == 32) break;
  }
}
