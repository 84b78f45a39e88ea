#include "tessera/cpu/conv.hpp"

#include "support/definition.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Conv : public testing::Test {};
TYPED_TEST_SUITE(Conv, Scalars);

template <class Scalar, int channels, int size, int kernel, int stride, int padding>
void check_convolution(index images) {
  constexpr int out = (size + 2 * padding - kernel) / stride + 1, values = channels * kernel * kernel;
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {}, kernel {}, stride {}, padding {}", images, size, size, channels,
                           kernel, stride, padding));
  Random random(1, Purpose::test, 0, 0);
  const Matrix pixels = normal<Scalar>(random, images * size * size, channels);
  const Matrix d_patches = normal<Scalar>(random, images * out * out, values);
  Matrix patches(d_patches.rows, values), d_pixels(pixels.rows, channels);
  for_copies<channels, size, kernel, stride, padding>(images,
                                                      [&](index patch, index value, index pixel, index channel) {
                                                        patches(patch, value) = pixels(pixel, channel);
                                                        d_pixels(pixel, channel) += d_patches(patch, value);
                                                      });
  const Values<Scalar> pixel_values(pixels), d_patch_values(d_patches);
  Values<Scalar> patch_values(patches.rows, values), d_pixel_values(pixels.rows, channels);
  run_operation<Scalar>(
      [&](auto& backend) {
        unfold<channels, size, kernel, stride, padding>(backend, input<channels>(pixel_values),
                                                        output<values>(patch_values));
        fold<channels, size, kernel, stride, padding>(backend, input<values>(d_patch_values),
                                                      output<channels>(d_pixel_values));
      },
      patch_values, d_pixel_values);
  expect_close("patches", patch_values, patches, 0);
  expect_close("d_pixels", d_pixel_values, d_pixels);
}

TYPED_TEST(Conv, FoldIsTheTransposeOfUnfold) {
  check_convolution<TypeParam, 1, 4, 1, 1, 0>(1);
  check_convolution<TypeParam, 2, 5, 3, 2, 1>(3);
  check_convolution<TypeParam, 3, 7, 3, 1, 1>(20);
  check_convolution<TypeParam, 2, 6, 2, 2, 0>(2);
  check_convolution<TypeParam, 1, 5, 3, 3, 0>(2);  // some pixels belong to no patch
  check_convolution<TypeParam, 1, 3, 5, 2, 3>(2);  // some patches hold padding alone
}

template <class Scalar, int channels, int pixels>
void check_layouts(index images) {
  SCOPED_TRACE(fmt::format("{} images of {} x {}", images, channels, pixels));
  Random random(1, Purpose::test, 0, 0);
  const Matrix planar = normal<Scalar>(random, images, channels * pixels);
  Matrix last(images * pixels, channels);
  for (index image = 0; image < images; ++image)
    for (index c = 0; c < channels; ++c)
      for (index p = 0; p < pixels; ++p) last(image * pixels + p, c) = planar(image, c * pixels + p);
  const Values<Scalar> planar_values(planar);
  Values<Scalar> last_values(last.rows, channels), back(images, planar.columns);
  run_operation<Scalar>(
      [&](auto& backend) {
        to_channels_last<channels, pixels>(backend, input<channels * pixels>(planar_values),
                                           output<channels>(last_values));
        to_planar<channels, pixels>(backend, input<channels>(last_values), output<channels * pixels>(back));
      },
      last_values, back);
  expect_close("channels last", last_values, last, 0);
  expect_close("planar", back, planar, 0);
}

TYPED_TEST(Conv, LayoutsHoldTheSamePixels) {
  check_layouts<TypeParam, 1, 1>(1);
  check_layouts<TypeParam, 3, 25>(200);
}

}  // namespace
}  // namespace tessera::test
