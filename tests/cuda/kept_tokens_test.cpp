#include "tessera/cuda/kept_tokens.hpp"

#include "cuda/operation.hpp"
#include "support/kept.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceKeptTokens : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceKeptTokens, DeviceScalars);

template <class Scalar, int tokens, int kept, int extra, int width>
void check_kept(index images) {
  SCOPED_TRACE(fmt::format("{} images, {} of {} tokens, {} wide", images, kept, tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const std::vector<int> keep = kept_tokens(random, images, tokens, kept);
  const Matrix x = stored<Scalar>(normal(random, images * tokens, width)),
               d_gathered = stored<Scalar>(normal(random, images * kept, width)),
               positions = normal(random, extra + tokens, width),
               before = stored<Scalar>(normal(random, images * (extra + kept), width)),
               dy = stored<Scalar>(normal(random, before.rows, width));
  const NaiveKept expected(tokens, extra, keep, x, d_gathered, positions, before, dy);
  const cuda::Buffer<int> keep_values(static_cast<index>(keep.size()));
  cuda::check(cudaMemcpy(keep_values.data(), keep.data(), keep.size() * sizeof(int), cudaMemcpyHostToDevice),
              "cudaMemcpy");
  const DeviceValues<float> position_values(positions), d_positions(positions.rows, width);
  const DeviceValues<Scalar> x_values(x), d_gathered_values(d_gathered), dy_values(dy),
      gathered(d_gathered.rows, width), scattered(x.rows, width), y(before);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        gather_tokens<tokens, kept>(backend, x_values.template input<width>(), keep_values.data(),
                                    gathered.template output<width>());
        scatter_tokens<tokens, kept>(backend, d_gathered_values.template input<width>(), keep_values.data(),
                                     scattered.template output<width>());
        add_positions<extra, kept>(backend, position_values.template input<width>(), keep_values.data(),
                                   y.template output<width>());
        add_positions_backward<extra, kept>(backend, dy_values.template input<width>(), keep_values.data(),
                                            d_positions.template output<width>());
      },
      gathered, scattered, y, d_positions);
  expect_close("gathered", gathered, expected.gathered, 0);
  expect_close("scattered", scattered, expected.scattered, 0);
  expect_close("y", y, expected.y);
  expect_close("d_positions", d_positions, expected.d_positions);
}

TYPED_TEST(DeviceKeptTokens, AreNamedByNumber) {
  check_kept<TypeParam, 1, 1, 0, 1>(1);
  check_kept<TypeParam, 9, 4, 1, 37>(3);
  check_kept<TypeParam, 9, 9, 0, 40>(2);
  check_kept<TypeParam, 49, 12, 1, 264>(11);
}

}  // namespace
}  // namespace tessera::test
