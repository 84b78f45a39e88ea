#include "tessera/cuda/drop_path.hpp"

#include "cuda/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceDropPath : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceDropPath, DeviceScalars);

template <class Scalar, int tokens, int width>
void check_scaling(index images, bool with_residual) {
  SCOPED_TRACE(fmt::format("{} images of {} tokens, {} wide", images, tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const Matrix branch = stored<Scalar>(normal(random, images * tokens, width)), scales = normal(random, images, 1);
  const Matrix residual = with_residual ? stored<Scalar>(normal(random, images * tokens, width)) : Matrix();
  Matrix expected(branch.rows, width);
  for (index row = 0; row < branch.rows; ++row)
    for (index c = 0; c < width; ++c)
      expected(row, c) = (with_residual ? residual(row, c) : 0) + scales(row / tokens, 0) * branch(row, c);
  const DeviceValues<float> scale_values(scales);
  const DeviceValues<Scalar> branch_values(branch), residual_values(residual), y(branch.rows, width), in_place(branch);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        scale_branch<tokens>(backend, branch_values.template input<width>(), scale_values.data(),
                             residual_values.template input<width>(), y.template output<width>());
      },
      y);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        scale_branch<tokens>(backend, in_place.template input<width>(), scale_values.data(),
                             residual_values.template input<width>(), in_place.template output<width>());
      },
      in_place);
  expect_close("y", y, expected);
  expect_close("y in place of the branch", in_place, expected);
}

TYPED_TEST(DeviceDropPath, ScalesTheRowsOfAnImage) {
  check_scaling<TypeParam, 1, 1>(1, true);
  check_scaling<TypeParam, 5, 37>(7, true);
  check_scaling<TypeParam, 5, 37>(7, false);
  check_scaling<TypeParam, 50, 136>(3, true);
}

}  // namespace
}  // namespace tessera::test
