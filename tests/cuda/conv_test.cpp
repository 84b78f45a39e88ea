#include "tessera/cuda/conv.hpp"

#include "cuda/operation.hpp"
#include "support/definition.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceConv : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceConv, DeviceScalars);

template <class Scalar, int channels, int size, int kernel, int stride, int padding>
void check_convolution(index images) {
  constexpr int out = (size + 2 * padding - kernel) / stride + 1, values = channels * kernel * kernel;
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {}, kernel {}, stride {}, padding {}", images, size, size, channels,
                           kernel, stride, padding));
  Random random(1, Purpose::test, 0, 0);
  const Matrix pixels = stored<Scalar>(normal(random, images * size * size, channels));
  const Matrix d_patches = stored<Scalar>(normal(random, images * out * out, values));
  Matrix patches(d_patches.rows, values), d_pixels(pixels.rows, channels);
  for_copies<channels, size, kernel, stride, padding>(images,
                                                      [&](index patch, index value, index pixel, index channel) {
                                                        patches(patch, value) = pixels(pixel, channel);
                                                        d_pixels(pixel, channel) += d_patches(patch, value);
                                                      });
  const DeviceValues<Scalar> pixel_values(pixels), d_patch_values(d_patches), patch_values(patches.rows, values),
      d_pixel_values(pixels.rows, channels);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        unfold<channels, size, kernel, stride, padding>(backend, pixel_values.template input<channels>(),
                                                        patch_values.template output<values>());
        fold<channels, size, kernel, stride, padding>(backend, d_patch_values.template input<values>(),
                                                      d_pixel_values.template output<channels>());
      },
      patch_values, d_pixel_values);
  expect_close("patches", patch_values, patches, 0);
  expect_close("d_pixels", d_pixel_values, d_pixels);
}

TYPED_TEST(DeviceConv, FoldIsTheTransposeOfUnfold) {
  check_convolution<TypeParam, 5, 4, 1, 1, 0>(1);
  check_convolution<TypeParam, 2, 6, 1, 2, 0>(2);
  check_convolution<TypeParam, 2, 5, 3, 2, 1>(3);
  check_convolution<TypeParam, 3, 7, 3, 1, 1>(5);
  check_convolution<TypeParam, 3, 20, 3, 2, 1>(2);
  check_convolution<TypeParam, 48, 10, 3, 2, 1>(2);
  check_convolution<TypeParam, 35, 5, 3, 1, 1>(1);
  check_convolution<TypeParam, 2, 6, 2, 2, 0>(2);
  check_convolution<TypeParam, 1, 5, 3, 3, 0>(2);  // some pixels belong to no patch
  check_convolution<TypeParam, 1, 3, 5, 2, 3>(2);  // some patches hold padding alone
  check_convolution<TypeParam, 8, 9, 5, 1, 2>(1);
  check_convolution<TypeParam, 3, 32, 16, 16, 0>(1);
}

template <class Scalar, int channels, int pixels>
void check_layouts(index images) {
  SCOPED_TRACE(fmt::format("{} images of {} x {}", images, channels, pixels));
  Random random(1, Purpose::test, 0, 0);
  const Matrix planar = stored<Scalar>(normal(random, images, channels * pixels));
  Matrix last(images * pixels, channels);
  for (index image = 0; image < images; ++image)
    for (index c = 0; c < channels; ++c)
      for (index p = 0; p < pixels; ++p) last(image * pixels + p, c) = planar(image, c * pixels + p);
  const DeviceValues<Scalar> planar_values(planar), last_values(last.rows, channels), back(images, planar.columns);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        to_channels_last<channels, pixels>(backend, planar_values.template input<channels * pixels>(),
                                           last_values.template output<channels>());
        to_planar<channels, pixels>(backend, last_values.template input<channels>(),
                                    back.template output<channels * pixels>());
      },
      last_values, back);
  expect_close("channels last", last_values, last, 0);
  expect_close("planar", back, planar, 0);
}

TYPED_TEST(DeviceConv, LayoutsHoldTheSamePixels) {
  check_layouts<TypeParam, 1, 1>(1);
  check_layouts<TypeParam, 3, 25>(7);
  check_layouts<TypeParam, 3, 48 * 48>(2);
  check_layouts<TypeParam, 20, 36>(2);
}

}  // namespace
}  // namespace tessera::test
