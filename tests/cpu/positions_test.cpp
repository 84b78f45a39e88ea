#include "tessera/cpu/positions.hpp"

#include "support/fixture.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Positions : public testing::Test {};
TYPED_TEST_SUITE(Positions, Scalars);

// Against F.interpolate(mode="bicubic") with the scale that DINO hands to it (extra = 0.1), and with the exact one.
template <class Scalar, Grid to>
void check_reference(const char* name, double extra) {
  SCOPED_TRACE(name);
  constexpr Grid from{3, 3};
  constexpr int width = 4;
  const Fixture fixture("study_instruments");
  const auto matrix = [&](const std::string& key) {
    Matrix m(static_cast<index>(fixture.tensor(key).values.size()) / width, width);
    m.values = fixture.tensor(key).values;
    return m;
  };
  const Matrix table = matrix("positions.table"), expected = matrix(name);
  Matrix dy = expected;  // the fixture's loss is the sum of squares
  for (double& value : dy.values) value *= 2;
  const Sums<Scalar> table_values(table), dy_values(dy);
  Sums<Scalar> y(expected.rows, width), d_table(table.rows, width);
  run_operation<Scalar>(
      [&](auto& backend) {
        resample_positions<from, to>(backend, input<width>(table_values), extra, output<width>(y));
        resample_positions_backward<from, to>(backend, input<width>(dy_values), extra, output<width>(d_table));
      },
      y, d_table);
  expect_close("y", y, expected);
  expect_close("d_table", d_table, matrix(std::string(name) + ".grad_of_squares"));
}

TYPED_TEST(Positions, EqualTheReference) {
  check_reference<TypeParam, Grid{2, 4}>("positions.dino_2x4", 0.1);
  check_reference<TypeParam, Grid{2, 4}>("positions.exact_2x4", 0);
  check_reference<TypeParam, Grid{5, 5}>("positions.exact_5x5", 0);
}

// <resampled, r> = <table, gradient of it>, without rows in front of the grid, for a width that fills no vector.
TYPED_TEST(Positions, BackwardIsTheTransposeOfForward) {
  constexpr Grid from{14, 9}, to{6, 11};
  constexpr int width = 37;
  Random random(1, Purpose::test, 0, 0);
  const Matrix table = normal(random, from.size(), width), dy = normal(random, to.size(), width);
  const Sums<TypeParam> table_values(table), dy_values(dy);
  Sums<TypeParam> y(dy.rows, width), d_table(table.rows, width);
  run_operation<TypeParam>(
      [&](auto& backend) {
        resample_positions<from, to>(backend, input<width>(table_values), 0.1, output<width>(y));
        resample_positions_backward<from, to>(backend, input<width>(dy_values), 0.1, output<width>(d_table));
      },
      y, d_table);
  double forward = 0, backward = 0, magnitude = 0;
  for (index row = 0; row < dy.rows; ++row)
    for (index c = 0; c < width; ++c) {
      forward += y(row, c) * dy(row, c);
      magnitude += std::abs(y(row, c) * dy(row, c));
    }
  for (index row = 0; row < table.rows; ++row)
    for (index c = 0; c < width; ++c) backward += table(row, c) * d_table(row, c);
  EXPECT_NEAR(forward, backward, rounding<Accumulator<TypeParam>> * magnitude);
}

}  // namespace
}  // namespace tessera::test
