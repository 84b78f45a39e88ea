#include "tessera/cuda/positions.hpp"

#include "cuda/operation.hpp"
#include "tessera/cpu/positions.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DevicePositions : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DevicePositions, DeviceScalars);

// Against the CPU's in double, which tests/cpu compares with the reference.
template <class Scalar, Grid from, Grid to, int leading, int width>
void check_resampling(double extra) {
  Random random(1, Purpose::test, 0, 0);
  const Matrix table = normal(random, leading + from.size(), width), dy = normal(random, leading + to.size(), width);
  Matrix y(dy.rows, width), d_table(table.rows, width);
  cpu::Backend<double> host(1);
  host.arena().commit();
  resample_positions<from, to>(host, Rows<const double, width>{table.values.data(), table.rows}, extra,
                               Rows<double, width>{y.values.data(), y.rows});
  resample_positions_backward<from, to>(host, Rows<const double, width>{dy.values.data(), dy.rows}, extra,
                                        Rows<double, width>{d_table.values.data(), d_table.rows});
  const DeviceValues<float> table_values(table), dy_values(dy), y_values(y.rows, width),
      d_table_values(table.rows, width);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        resample_positions<from, to>(backend, table_values.template input<width>(), extra,
                                     y_values.template output<width>());
        resample_positions_backward<from, to>(backend, dy_values.template input<width>(), extra,
                                              d_table_values.template output<width>());
      },
      y_values, d_table_values);
  expect_close("y", y_values, y);
  expect_close("d_table", d_table_values, d_table);
}

TYPED_TEST(DevicePositions, EqualTheCpus) {
  check_resampling<TypeParam, Grid{14, 14}, Grid{6, 6}, 1, 24>(0.1);
  check_resampling<TypeParam, Grid{3, 3}, Grid{2, 4}, 0, 136>(0);
  check_resampling<TypeParam, Grid{3, 2}, Grid{5, 7}, 1, 37>(0.1);
}

}  // namespace
}  // namespace tessera::test
