#include "tessera/cpu/drop_path.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DropPath : public testing::Test {};
TYPED_TEST_SUITE(DropPath, Scalars);

template <class Scalar, int tokens, int width>
void check_scaling(index images, bool with_residual) {
  SCOPED_TRACE(fmt::format("{} images of {} tokens, {} wide", images, tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const Matrix branch = normal<Scalar>(random, images * tokens, width), scales = normal(random, images, 1);
  const Matrix residual = with_residual ? normal<Scalar>(random, images * tokens, width) : Matrix();
  Matrix expected(branch.rows, width);
  for (index row = 0; row < branch.rows; ++row)
    for (index c = 0; c < width; ++c)
      expected(row, c) = (with_residual ? residual(row, c) : 0) + scales(row / tokens, 0) * branch(row, c);
  const Values<Scalar> branch_values(branch), residual_values(residual);
  const Sums<Scalar> scale_values(scales);
  Values<Scalar> y(branch.rows, width), in_place(branch);
  run_operation<Scalar>(
      [&](auto& backend) {
        scale_branch<tokens>(backend, input<width>(branch_values), scale_values.data(), input<width>(residual_values),
                             output<width>(y));
        scale_branch<tokens>(backend, input<width>(in_place), scale_values.data(), input<width>(residual_values),
                             output<width>(in_place));
      },
      y, in_place);
  expect_close("y", y, expected);
  expect_close("y in place of the branch", in_place, expected);
}

TYPED_TEST(DropPath, ScalesTheRowsOfAnImage) {
  check_scaling<TypeParam, 1, 1>(1, true);
  check_scaling<TypeParam, 5, 37>(7, true);
  check_scaling<TypeParam, 5, 37>(7, false);
  check_scaling<TypeParam, 50, 136>(20, true);
}

}  // namespace
}  // namespace tessera::test
