#include "tessera/cuda/masking.hpp"

#include "cuda/operation.hpp"
#include "support/masking.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceMasking : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceMasking, DeviceScalars);

template <class Element>
[[nodiscard]] cuda::Buffer<Element> on_device(const std::vector<Element>& values) {
  cuda::Buffer<Element> buffer(static_cast<index>(values.size()));
  cuda::check(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(Element), cudaMemcpyHostToDevice),
              "cudaMemcpy");
  cuda::check(cudaDeviceSynchronize(), "cudaMemcpy");
  return buffer;
}

// A mask in memory of the device.
struct DeviceMask {
  explicit DeviceMask(const NaiveMask& mask) : keep_(on_device(mask.keep)), restore_(on_device(mask.restore)) {}
  [[nodiscard]] const int* keep() const { return keep_.data(); }
  [[nodiscard]] const int* restore() const { return restore_.data(); }

 private:
  cuda::Buffer<int> keep_, restore_;
};

[[nodiscard]] Matrix matrix_of(const std::vector<int>& values, index columns) {
  Matrix matrix(static_cast<index>(values.size()) / columns, columns);
  std::copy(values.begin(), values.end(), matrix.values.begin());
  return matrix;
}

// Calls operation(backend, keep, restore) and compares the mask.
template <class Scalar, int patches, int kept, class Operation>
void check_mask(const NaiveMask& expected, index images, Operation&& operation) {
  const DeviceValues<int> keep(Matrix(images, kept, -7)), restore(Matrix(images, patches, -7));
  run_on_device<Scalar>([&](cuda::Backend<Scalar>& backend) { operation(backend, keep.data(), restore.data()); }, keep,
                        restore);
  EXPECT_EQ(keep.values().values, matrix_of(expected.keep, kept).values);
  EXPECT_EQ(restore.values().values, matrix_of(expected.restore, patches).values);
}

template <class Scalar, int patches, int kept>
void check_given(index images) {
  Random random(1, Purpose::test, 0, patches);
  const std::vector<float> noise = coarse_noise(random, images * patches);
  const auto there = on_device(noise);
  check_mask<Scalar, patches, kept>(
      NaiveMask(noise, patches, kept), images, [&](auto& backend, int* keep, int* restore) {
        mask_by_noise<patches, kept>(backend, static_cast<const float*>(there.data()), images, keep, restore);
      });
}

TYPED_TEST(DeviceMasking, OrdersPatchesByTheirNoise) {
  check_given<TypeParam, 1, 1>(3);
  check_given<TypeParam, 25, 7>(6);
  check_given<TypeParam, 300, 75>(5);
}

TYPED_TEST(DeviceMasking, DrawsWhatTheHostDraws) {
  constexpr int patches = 49, kept = 12;
  constexpr index images = 9, first = 40;
  const StepNumber number{11, 5};
  const auto there = on_device(std::vector<StepNumber>{number});
  std::vector<float> noise;
  for (index image = first; image < first + images; ++image)
    for (int patch = 0; patch < patches; ++patch) noise.push_back(mask_noise(number, image, patch));
  check_mask<TypeParam, patches, kept>(
      NaiveMask(noise, patches, kept), images, [&](auto& backend, int* keep, int* restore) {
        draw_mask<patches, kept>(backend, static_cast<const StepNumber*>(there.data()), first, images, keep, restore);
      });
}

template <class Scalar, int extra, int patches, int kept, int width>
void check_tokens(index images) {
  SCOPED_TRACE(fmt::format("{} images, {} + {} of {} tokens, {} wide", images, extra, kept, patches, width));
  const MaskedShape shape{images, extra, patches, kept, width};
  Random random(1, Purpose::test, 0, 0);
  const NaiveMask mask(coarse_noise(random, images * patches), patches, kept);
  const DeviceMask there(mask);
  const Matrix x = stored<Scalar>(normal(random, shape.kept_rows(), width)), mask_token = normal(random, 1, width),
               positions = normal(random, extra + patches, width),
               dy = stored<Scalar>(normal(random, shape.all_rows(), width));
  const NaiveUnshuffle expected(shape, mask, x, mask_token, positions, dy);
  const DeviceValues<float> token(mask_token), table(positions), d_token(1, width);
  const DeviceValues<Scalar> x_values(x), dy_values(dy), y(shape.all_rows(), width), dx(shape.kept_rows(), width);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        unshuffle_tokens<extra, patches, kept>(backend, x_values.template input<width>(), token.data(), table.data(),
                                               there.restore(), y.template output<width>());
        unshuffle_tokens_backward<extra, patches, kept>(backend, dy_values.template input<width>(), there.keep(),
                                                        there.restore(), dx.template output<width>(), d_token.data());
      },
      y, dx, d_token);
  expect_close("y", y, expected.y);
  expect_close("dx", dx, expected.dx, 0);
  expect_close("d_mask_token", d_token, expected.d_mask_token);
}

TYPED_TEST(DeviceMasking, PutsPatchesBack) {
  check_tokens<TypeParam, 0, 1, 1, 1>(1);
  check_tokens<TypeParam, 1, 9, 4, 37>(3);
  check_tokens<TypeParam, 0, 9, 1, 40>(2);
  check_tokens<TypeParam, 1, 49, 12, 264>(11);
}

template <class Scalar, int channels, int size, int patch, bool normalized>
void check_targets(index images) {
  constexpr int values = channels * patch * patch, grid = size / patch;
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = stored<Scalar>(normal(random, images, channels * size * size, 1, 2));
  const DeviceValues<Scalar> from(x), targets(images * grid * grid, values);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        patch_targets<channels, size, patch, normalized>(backend, from.template input<channels * size * size>(),
                                                         targets.template output<values>());
      },
      targets);
  expect_close("targets", targets, naive_targets(x, channels, size, patch, normalized),
               normalized ? device_rounding<Scalar> : 0);
}

TYPED_TEST(DeviceMasking, TargetsAreThePixelsOfPatches) {
  check_targets<TypeParam, 3, 15, 3, true>(6);
  check_targets<TypeParam, 3, 15, 3, false>(6);
  check_targets<TypeParam, 1, 28, 7, true>(2);
  check_targets<TypeParam, 3, 32, 16, true>(5);
}

template <class Scalar, int extra, int patches, int kept, int width>
void check_loss(index images, double weight, index total) {
  SCOPED_TRACE(fmt::format("{} images, {} + {} of {} tokens, {} wide", images, extra, kept, patches, width));
  const MaskedShape shape{images, extra, patches, kept, width};
  Random random(1, Purpose::test, 0, 0);
  const NaiveMask mask(coarse_noise(random, images * patches), patches, kept);
  const DeviceMask there(mask);
  const Matrix prediction = stored<Scalar>(normal(random, shape.all_rows(), width)),
               targets = stored<Scalar>(normal(random, images * patches, width));
  const NaiveMaskedMse expected(shape, mask, prediction, targets, weight, total);
  const DeviceValues<Scalar> p(prediction), t(targets), d(shape.all_rows(), width), over(prediction);
  const DeviceValues<double> loss(Matrix(1, 1, 0.5)), loss_over(Matrix(1, 1, 0.5));
  const auto run = [&](const DeviceValues<Scalar>& from, const DeviceValues<Scalar>& to,
                       const DeviceValues<double>& sum) {
    run_on_device<Scalar>(
        [&](cuda::Backend<Scalar>& backend) {
          masked_mse<extra, patches, kept>(backend, from.template input<width>(), t.template input<width>(),
                                           there.restore(), weight, total, sum.data(), to.template output<width>());
        },
        to, sum);
    EXPECT_NEAR(sum.values()(0, 0) - 0.5, expected.loss, 2e-6 * std::max(1.0, expected.loss));
    expect_close("d_prediction", to, expected.d_prediction);
  };
  run(p, d, loss);
  run(over, over, loss_over);
}

TYPED_TEST(DeviceMasking, LossEqualsTheDefinition) {
  check_loss<TypeParam, 0, 1, 1, 3>(1, 1, 1);
  check_loss<TypeParam, 1, 25, 7, 27>(6, 1, 6 * 18);
  check_loss<TypeParam, 0, 9, 4, 40>(3, 0.25, 30);
  check_loss<TypeParam, 1, 49, 12, 264>(11, 2, 22 * 37);
}

}  // namespace
}  // namespace tessera::test
