#include "tessera/cpu/draws.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class StepDraws : public testing::Test {};
TYPED_TEST_SUITE(StepDraws, Scalars);

TYPED_TEST(StepDraws, DropPathIsOfEachImageAndBranch) {
  constexpr int depth = 3;
  constexpr index images = 150, first = 40;
  const StepNumber number{11, 5};
  const double rate = 0.4;
  Sums<TypeParam> scales(2 * depth, images);
  run_operation<TypeParam>(
      [&](auto& backend) { draw_drop_path(backend, &number, &rate, first, depth, images, scales.data()); }, scales);
  int dropped = 0;
  for (index image = 0; image < images; ++image) {
    Random random = drop_path_stream(number, first + image);
    for (int branch = 0; branch < 2 * depth; ++branch) {
      const double expected = drop_path_scale(rate, branch / 2, depth, static_cast<double>(random.uniform()));
      EXPECT_EQ(scales(branch, image), static_cast<double>(static_cast<Accumulator<TypeParam>>(expected)));
      dropped += expected == 0;
      EXPECT_TRUE(branch >= 2 || expected == 1);
    }
  }
  EXPECT_NEAR(dropped, images * 2 * (0.2 + 0.4), 5 * 12);
}

// Ranks draw for their images what one rank draws for all.
TEST(StepDrawsOfRanks, AreThoseOfOneRank) {
  constexpr int depth = 2;
  const StepNumber number{1, 9};
  const double rate = 0.5;
  cpu::Backend<double> backend(1);
  backend.arena().commit();
  std::vector<double> all(4 * 6), mine(4 * 3);
  draw_drop_path(backend, &number, &rate, 0, depth, 6, all.data());
  draw_drop_path(backend, &number, &rate, 3, depth, 3, mine.data());
  for (std::size_t branch = 0; branch < 4; ++branch)
    for (std::size_t image = 0; image < 3; ++image) EXPECT_EQ(mine[branch * 3 + image], all[branch * 6 + 3 + image]);
}

TEST(StepDrawsOfMixing, AreThoseOfTheStep) {
  const StepNumber number{11, 5};
  const double mixup = 0.8, cutmix = 1, probability = 1, switching = 0.5;
  cpu::Backend<float> backend(1);
  Mixing mixing = Mixing::mixup(-1);
  draw_mixing(backend, &number, &mixup, &cutmix, &probability, &switching, 32, &mixing);
  EXPECT_EQ(mixing.lambda, -1) << "touched while planning";
  backend.arena().commit();
  draw_mixing(backend, &number, &mixup, &cutmix, &probability, &switching, 32, &mixing);
  EXPECT_EQ(mixing.lambda, mixing_of(number, {mixup, cutmix, probability, switching}, 32).lambda);
}

}  // namespace
}  // namespace tessera::test
