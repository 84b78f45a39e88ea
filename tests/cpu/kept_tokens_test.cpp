#include "tessera/cpu/kept_tokens.hpp"

#include "support/kept.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class KeptTokens : public testing::Test {};
TYPED_TEST_SUITE(KeptTokens, Scalars);

template <class Scalar, int tokens, int kept, int extra, int width>
void check_kept(index images) {
  SCOPED_TRACE(fmt::format("{} images, {} of {} tokens, {} wide", images, kept, tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const std::vector<int> keep = kept_tokens(random, images, tokens, kept);
  const Matrix x = normal<Scalar>(random, images * tokens, width),
               d_gathered = normal<Scalar>(random, images * kept, width),
               positions = normal(random, extra + tokens, width),
               before = normal<Scalar>(random, images * (extra + kept), width),
               dy = normal<Scalar>(random, before.rows, width);
  const NaiveKept expected(tokens, extra, keep, x, d_gathered, positions, before, dy);
  const Values<Scalar> x_values(x), d_gathered_values(d_gathered), dy_values(dy);
  const Sums<Scalar> position_values(positions);
  Values<Scalar> gathered(d_gathered.rows, width), scattered(x.rows, width), y(before);
  Sums<Scalar> d_positions(positions.rows, width);
  run_operation<Scalar>(
      [&](auto& backend) {
        gather_tokens<tokens, kept>(backend, input<width>(x_values), keep.data(), output<width>(gathered));
        scatter_tokens<tokens, kept>(backend, input<width>(d_gathered_values), keep.data(), output<width>(scattered));
        add_positions<extra, kept>(backend, input<width>(position_values), keep.data(), output<width>(y));
        add_positions_backward<extra, kept>(backend, input<width>(dy_values), keep.data(), output<width>(d_positions));
      },
      gathered, scattered, y, d_positions);
  expect_close("gathered", gathered, expected.gathered, 0);
  expect_close("scattered", scattered, expected.scattered, 0);
  expect_close("y", y, expected.y);
  expect_close("d_positions", d_positions, expected.d_positions);
}

TYPED_TEST(KeptTokens, AreNamedByNumber) {
  check_kept<TypeParam, 1, 1, 0, 1>(1);
  check_kept<TypeParam, 9, 4, 1, 37>(3);
  check_kept<TypeParam, 9, 9, 0, 37>(2);
  check_kept<TypeParam, 49, 12, 1, 136>(20);
}

}  // namespace
}  // namespace tessera::test
