// MoCo v3 of small ViTs on noisy looks at random patterns, on any backend.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/parity.hpp"
#include "support/training.hpp"
#include "tessera/core/random.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {

// Small ViTs as training starts them.
template <class Image, int width, int depth>
using MoCo =
    objectives::MoCoV3<VisionTransformer<Image, patch<7>, width, depth, 4, 4, vit::policies<embed::FrozenPatches>>,
                       heads::Mlp<3, 2 * width, width>, heads::Mlp<2, 2 * width, width>>;
using Small = MoCo<image<28, 1>, 64, 3>;
using Tiny = MoCo<image<14, 1>, 32, 2>;

// Two noisy looks at each of some patterns.
inline std::vector<double> noisy_views(std::uint64_t seed, std::uint32_t step, index values) {
  Random random(seed, Purpose::test, step, 0);
  std::vector<double> patterns(static_cast<std::size_t>(values));
  for (double& value : patterns) value = random.normal();
  std::vector<double> views;
  for (int view = 0; view < 2; ++view)
    for (const double value : patterns) views.push_back(value + 0.3 * random.normal());
  return views;
}

template <class Objective, class Backend, index batch>
class Training {
 public:
  using Scalar = typename Backend::Scalar;

  explicit Training(std::uint64_t seed) : seed_(seed) {}

  double step(std::uint32_t number, double learning_rate) {
    images_.assign(noisy_views(seed_, number, batch * Objective::Encoder::in));
    return trainer_.step(batch_of<Objective>(static_cast<const Scalar*>(images_.data()), batch),
                         {.learning_rate = learning_rate});
  }
  [[nodiscard]] auto gradient() {
    return downloaded(backend_, static_cast<const Accumulator<Scalar>*>(trainer_.gradient()),
                      OnlineLayout<Objective>::parameters);
  }

 private:
  std::uint64_t seed_;
  Backend backend_;
  comm::Serial communicator_;
  TrainerOn<Objective, Backend> trainer_{backend_, communicator_, optim::AdamW{}, {.batch = batch, .seed = 8}};
  Held<Scalar, Backend> images_{backend_, 2 * batch* Objective::Encoder::in};
};

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double along = 0, squares_a = 0, squares_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    along += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    squares_a += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    squares_b += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return along / std::sqrt(squares_a * squares_b);
}

// At the start images' class tokens hardly differ, and BatchNorm magnifies what rounding does to them: PyTorch's
// autocast has a cosine of 0.97 to 0.99 to float's gradient here.
template <class LowBackend>
void check_bf16_against_float() {
  Training<Small, cpu::Backend<float>, 32> whole(3);
  Training<Small, LowBackend, 32> low(3);
  EXPECT_NEAR(low.step(0, 1e-3), whole.step(0, 1e-3), 2e-2);
  EXPECT_GT(cosine(low.gradient(), whole.gradient()), 0.985);
}

// The loss of the fixture, whose batch is small: rounding that differs in its last bits moves it by 0.02 (the standard
// deviation over images with small noise).
template <class LowBackend>
void check_bf16_against_the_reference(double bound) {
  const Fixture fixture("moco_step");
  LowBackend backend;
  Session<Learned, LowBackend> run(backend, fixture, fixture.tensor("x1").shape[0], optim::AdamW{});
  EXPECT_NEAR(run.step(0, fixture.number("lr"), fixture.number("m")), fixture.tensor("loss").values[0], bound);
}

}  // namespace tessera::test
