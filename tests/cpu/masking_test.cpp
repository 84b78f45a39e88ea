#include "tessera/cpu/masking.hpp"

#include "support/masking.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Masking : public testing::Test {};
TYPED_TEST_SUITE(Masking, Scalars);

// Integers between guards: doubles of the operation tests hold them exactly.
using Ints = Values<int>;
[[nodiscard]] std::vector<int> list(const Ints& values) {
  return {values.span().begin(), values.span().end()};
}
[[nodiscard]] Ints unset(index rows, index columns) {
  return Ints(Matrix(rows, columns, -7));
}

// Calls operation(backend, keep, restore) and compares the mask, also for 1, 2 and 3 threads.
template <class Scalar, int patches, int kept, class Operation>
void check_mask(const NaiveMask& expected, index images, Operation&& operation) {
  std::vector<Ints> first;
  for (int threads = 1; threads <= 3; ++threads) {
    Ints keep = unset(images, kept), restore = unset(images, patches);
    const Ints keep_before = keep, restore_before = restore;
    cpu::Backend<Scalar> backend(threads);
    operation(backend, keep.data(), restore.data());
    EXPECT_TRUE(keep.same_bits(keep_before) && restore.same_bits(restore_before)) << "touched while planning";
    backend.arena().commit();
    operation(backend, keep.data(), restore.data());
    EXPECT_TRUE(keep.same_guards(keep_before) && restore.same_guards(restore_before)) << "written outside";
    EXPECT_EQ(list(keep), expected.keep);
    EXPECT_EQ(list(restore), expected.restore);
  }
}

template <class Scalar, int patches, int kept>
void check_given(index images) {
  Random random(1, Purpose::test, 0, patches);
  const std::vector<float> noise = coarse_noise(random, images * patches);
  check_mask<Scalar, patches, kept>(NaiveMask(noise, patches, kept), images,
                                    [&](auto& backend, int* keep, int* restore) {
                                      mask_by_noise<patches, kept>(backend, noise.data(), images, keep, restore);
                                    });
}

TYPED_TEST(Masking, OrdersPatchesByTheirNoise) {
  check_given<TypeParam, 1, 1>(3);
  check_given<TypeParam, 25, 7>(6);
  check_given<TypeParam, 196, 49>(5);
}

TYPED_TEST(Masking, DrawsTheNoiseOfEachImage) {
  constexpr int patches = 49, kept = 12;
  constexpr index images = 9, first = 40;
  const StepNumber number{11, 5};
  std::vector<float> noise;
  for (index image = first; image < first + images; ++image) {
    Random random(11, Purpose::mask, 5, static_cast<std::uint32_t>(image));
    for (int patch = 0; patch < patches; ++patch) noise.push_back(random.uniform());
  }
  check_mask<TypeParam, patches, kept>(NaiveMask(noise, patches, kept), images,
                                       [&](auto& backend, int* keep, int* restore) {
                                         draw_mask<patches, kept>(backend, &number, first, images, keep, restore);
                                       });
}

// Every patch stays equally often, within five standard errors.
TEST(MaskingDraws, TreatPatchesAlike) {
  constexpr int patches = 16, kept = 4;
  constexpr index images = 4000;
  const StepNumber number{1, 0};
  cpu::Backend<float> backend(1);
  backend.arena().commit();
  std::vector<int> keep(images * kept), restore(images * patches), times(patches);
  draw_mask<patches, kept>(backend, &number, 0, images, keep.data(), restore.data());
  for (const int patch : keep) ++times[static_cast<std::size_t>(patch)];
  for (const int count : times) EXPECT_NEAR(count, images / 4, 5 * 28);
}

template <class Scalar, int extra, int patches, int kept, int width>
void check_tokens(index images) {
  SCOPED_TRACE(fmt::format("{} images, {} + {} of {} tokens, {} wide", images, extra, kept, patches, width));
  const MaskedShape shape{images, extra, patches, kept, width};
  Random random(1, Purpose::test, 0, 0);
  const NaiveMask mask(coarse_noise(random, images * patches), patches, kept);
  const Matrix x = normal<Scalar>(random, shape.kept_rows(), width), mask_token = normal(random, 1, width),
               positions = normal(random, extra + patches, width), dy = normal<Scalar>(random, shape.all_rows(), width);
  const NaiveUnshuffle expected(shape, mask, x, mask_token, positions, dy);
  const Values<Scalar> x_values(x), dy_values(dy);
  const Sums<Scalar> token(mask_token), table(positions);
  Values<Scalar> y(shape.all_rows(), width), dx(shape.kept_rows(), width);
  Sums<Scalar> d_token(1, width);
  run_operation<Scalar>(
      [&](auto& backend) {
        unshuffle_tokens<extra, patches, kept>(backend, input<width>(x_values), token.data(), table.data(),
                                               mask.restore.data(), output<width>(y));
        unshuffle_tokens_backward<extra, patches, kept>(backend, input<width>(dy_values), mask.keep.data(),
                                                        mask.restore.data(), output<width>(dx), d_token.data());
      },
      y, dx, d_token);
  expect_close("y", y, expected.y);
  expect_close("dx", dx, expected.dx, 0);
  expect_close("d_mask_token", d_token, expected.d_mask_token);
}

TYPED_TEST(Masking, PutsPatchesBack) {
  check_tokens<TypeParam, 0, 1, 1, 1>(1);
  check_tokens<TypeParam, 1, 9, 4, 37>(3);
  check_tokens<TypeParam, 0, 9, 1, 40>(2);
  check_tokens<TypeParam, 1, 49, 12, 264>(11);
}

template <class Scalar, int channels, int size, int patch, bool normalized>
void check_targets(index images) {
  constexpr int values = channels * patch * patch, grid = size / patch;
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, images, channels * size * size, 1, 2);
  const Values<Scalar> from(x);
  Values<Scalar> targets(images * grid * grid, values);
  run_operation<Scalar>(
      [&](auto& backend) {
        patch_targets<channels, size, patch, normalized>(backend, input<channels * size * size>(from),
                                                         output<values>(targets));
      },
      targets);
  expect_close("targets", targets, naive_targets(x, channels, size, patch, normalized),
               normalized ? rounding<Scalar> : 0);
}

TYPED_TEST(Masking, TargetsAreThePixelsOfPatches) {
  check_targets<TypeParam, 3, 15, 3, true>(6);
  check_targets<TypeParam, 3, 15, 3, false>(6);
  check_targets<TypeParam, 1, 28, 7, true>(2);
  check_targets<TypeParam, 3, 32, 16, true>(5);
}

// A patch of one colour has no variance: its target is 0.
TYPED_TEST(Masking, TargetsOfAFlatPatchAreZero) {
  const Values<TypeParam> from(Matrix(1, 16, 0.75));
  Values<TypeParam> targets(4, 4);
  run_operation<TypeParam>(
      [&](auto& backend) { patch_targets<1, 4, 2, true>(backend, input<16>(from), output<4>(targets)); }, targets);
  expect_close("targets", targets, Matrix(4, 4), 0);
}

// The loss, which is added to 0.5 and does not depend on the number of threads. d_prediction may hold the prediction.
template <int extra, int patches, int kept, int width, class Scalar>
double run_loss(const NaiveMask& mask, const Values<Scalar>* prediction, const Values<Scalar>& targets, double weight,
                index total, Values<Scalar>& d_prediction) {
  std::vector<double> losses;
  run_operation<Scalar>(
      [&](auto& backend) {
        double loss = 0.5;
        masked_mse<extra, patches, kept>(backend, input<width>(prediction != nullptr ? *prediction : d_prediction),
                                         input<width>(targets), mask.restore.data(), weight, total, &loss,
                                         output<width>(d_prediction));
        if (backend.planning())
          EXPECT_EQ(loss, 0.5);
        else
          losses.push_back(loss - 0.5);
      },
      d_prediction);
  for (const double loss : losses) EXPECT_EQ(loss, losses[0]);
  return losses[0];
}

template <class Scalar, int extra, int patches, int kept, int width>
void check_loss(index images, double weight, index total) {
  SCOPED_TRACE(fmt::format("{} images, {} + {} of {} tokens, {} wide", images, extra, kept, patches, width));
  const MaskedShape shape{images, extra, patches, kept, width};
  Random random(1, Purpose::test, 0, 0);
  const NaiveMask mask(coarse_noise(random, images * patches), patches, kept);
  const Matrix prediction = normal<Scalar>(random, shape.all_rows(), width),
               targets = normal<Scalar>(random, images * patches, width);
  const NaiveMaskedMse expected(shape, mask, prediction, targets, weight, total);
  const Values<Scalar> p(prediction), t(targets);
  Values<Scalar> d(shape.all_rows(), width), over(prediction);
  const double bound = rounding<Accumulator<Scalar>> * std::max(1.0, expected.loss);
  EXPECT_NEAR((run_loss<extra, patches, kept, width>(mask, &p, t, weight, total, d)), expected.loss, bound);
  expect_close("d_prediction", d, expected.d_prediction);
  EXPECT_NEAR((run_loss<extra, patches, kept, width, Scalar>(mask, nullptr, t, weight, total, over)), expected.loss,
              bound);
  expect_close("d_prediction over the prediction", over, expected.d_prediction);
}

TYPED_TEST(Masking, LossEqualsTheDefinition) {
  check_loss<TypeParam, 0, 1, 1, 3>(1, 1, 1);
  check_loss<TypeParam, 1, 25, 7, 27>(6, 1, 6 * 18);
  check_loss<TypeParam, 0, 9, 4, 40>(3, 0.25, 30);
  check_loss<TypeParam, 1, 49, 12, 264>(11, 2, 22 * 37);
}

// Not even NaN in the prediction or the target of a patch that is kept, or in the class token's row, counts.
TYPED_TEST(Masking, LossIsThatOfRemovedPatches) {
  constexpr int extra = 1, patches = 9, kept = 4, width = 12;
  const MaskedShape shape{2, extra, patches, kept, width};
  Random random(1, Purpose::test, 0, 0);
  const NaiveMask mask(coarse_noise(random, 2 * patches), patches, kept);
  Matrix prediction = normal<TypeParam>(random, shape.all_rows(), width),
         targets = normal<TypeParam>(random, 2 * patches, width);
  const NaiveMaskedMse expected(shape, mask, prediction, targets, 1, 10);
  for (index row = 0; row < prediction.rows; ++row) {
    const index token = row % (extra + patches), patch = row / (extra + patches) * patches + token - extra;
    if (token >= extra && mask.restore.data()[patch] >= kept) continue;
    for (index c = 0; c < width; ++c) {
      prediction(row, c) = std::numeric_limits<double>::quiet_NaN();
      if (token >= extra) targets(patch, c) = prediction(row, c);
    }
  }
  const Values<TypeParam> p(prediction), t(targets);
  Values<TypeParam> d(shape.all_rows(), width);
  EXPECT_NEAR((run_loss<extra, patches, kept, width>(mask, &p, t, 1, 10, d)), expected.loss,
              rounding<Accumulator<TypeParam>> * 2);
  expect_close("d_prediction", d, expected.d_prediction);
}

}  // namespace
}  // namespace tessera::test
