#include "tessera/cpu/matmul.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Policy_, class Scalar_>
struct Case {
  using Policy = Policy_;
  using Scalar = Scalar_;
};

using Cases = testing::Types<
#if TESSERA_HAS_ONEDNN
    Case<cpu::OneDnnMatmul, float>,
#endif
#if TESSERA_HAS_CBLAS
    Case<cpu::CblasMatmul, double>, Case<cpu::CblasMatmul, float>,
#endif
    Case<cpu::EigenMatmul, double>, Case<cpu::EigenMatmul, float>, Case<cpu::Packed<cpu::EigenMatmul>, float>,
    Case<cpu::PackedMatmul, double>, Case<cpu::PackedMatmul, float>, Case<cpu::PackedMatmul, bf16>>;

struct Shape {
  index m, n, k;
};

// Stored matrices are wider than the operands: what lies beyond must not be read or written.
constexpr index gap = 3;

Matrix padded(Random& random, index rows, index columns, bool transposed) {
  Matrix matrix = transposed ? normal(random, columns, rows + gap) : normal(random, rows, columns + gap);
  for (index r = 0; r < matrix.rows; ++r)
    for (index c = matrix.columns - gap; c < matrix.columns; ++c) matrix(r, c) = 1e6;
  return matrix;
}

template <class Policy, class Scalar>
void check_product(const Shape& shape, bool transpose_a, bool transpose_b, bool accumulate) {
  using Sum = Accumulator<Scalar>;
  const auto [m, n, k] = shape;
  SCOPED_TRACE(fmt::format("{} x {} x {}{}{}{}", m, n, k, transpose_a ? ", a transposed" : "",
                           transpose_b ? ", b transposed" : "", accumulate ? ", added" : ""));
  Random random(1, Purpose::test, 0, 0);
  const Values<Scalar> a_values(padded(random, m, k, transpose_a)), b_values(padded(random, k, n, transpose_b));
  const auto a = [&](index i, index l) { return a_values(i, l); };
  const auto b = [&](index l, index j) { return b_values(l, j); };
  Matrix c(m, n + gap, std::numeric_limits<double>::quiet_NaN());
  if (accumulate) c = normal(random, m, n + gap);
  for (index i = 0; i < m; ++i)
    for (index j = n; j < n + gap; ++j) c(i, j) = 5;
  Values<Sum> c_values(c);
  const Values<Sum> before = c_values;
  for (index i = 0; i < m; ++i)
    for (index j = 0; j < n; ++j) {
      double sum = accumulate ? c(i, j) : 0;
      for (index l = 0; l < k; ++l) sum += (transpose_a ? a(l, i) : a(i, l)) * (transpose_b ? b(j, l) : b(l, j));
      c(i, j) = sum;
    }
  Policy::multiply(m, n, k, cpu::Operand<Scalar>{a_values.data(), (transpose_a ? m : k) + gap, transpose_a},
                   cpu::Operand<Scalar>{b_values.data(), (transpose_b ? k : n) + gap, transpose_b}, c_values.data(),
                   c.columns, accumulate);
  expect_close("c", c_values, c);
  for (index i = 0; i < m; ++i)
    for (index j = n; j < n + gap; ++j) EXPECT_EQ(c_values(i, j), 5) << "between rows";
  EXPECT_TRUE(c_values.same_guards(before));
}

template <class One>
class Matmul : public testing::Test {};
TYPED_TEST_SUITE(Matmul, Cases);

TYPED_TEST(Matmul, EqualsTheDefinition) {
  for (const Shape& shape : {Shape{1, 1, 1}, {3, 5, 7}, {1, 70, 33}, {64, 1, 40}, {65, 34, 1}, {130, 97, 300}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const bool accumulate : {false, true})
          check_product<typename TypeParam::Policy, typename TypeParam::Scalar>(shape, transpose_a, transpose_b,
                                                                                accumulate);
}

template <class Scalar>
class Panels : public testing::Test {};
TYPED_TEST_SUITE(Panels, Scalars);

// Shapes that do not fill the last panel, the last block of rows or the last pack.
TYPED_TEST(Panels, EqualTheProductBitForBit) {
  using Scalar = TypeParam;
  using Sum = Accumulator<Scalar>;
  using Policy = cpu::PackedMatmul;
  constexpr index m = 21, n = 2 * Policy::panel_columns<Scalar> + 5, k = 64, stride = n + 3 * simd::lanes<Sum>;
  Random random(1, Purpose::test, 0, 0);
  const Values<Scalar> a(normal(random, m, k)), b(normal(random, n, k));
  const cpu::Operand<Scalar> left{a.data(), k}, right{b.data(), k, true};
  std::vector<Sum> expected(m * stride), sums(m * stride);
  Policy::multiply(m, n, k, left, right, expected.data(), stride, false);
  std::vector<Scalar> panel(Policy::panel_size<Scalar>(k));
  for (index column = 0; column < n; column += Policy::panel_columns<Scalar>) {
    const index width = smaller(n - column, Policy::panel_columns<Scalar>);
    Policy::pack_panel(k, width, right.from_column(column), panel.data());
    Policy::multiply_panel(m, width, k, left, panel.data(), sums.data() + column, stride);
  }
  for (index row = 0; row < m; ++row)
    for (index column = 0; column < n; ++column)
      EXPECT_EQ(sums[row * stride + column], expected[row * stride + column]) << row << ", " << column;
}

TEST(DefaultMatmul, SupportsItsScalar) {
  EXPECT_TRUE(cpu::DefaultMatmul<double>::supports<double>);
  EXPECT_TRUE(cpu::DefaultMatmul<float>::supports<float>);
  EXPECT_TRUE(cpu::DefaultMatmul<bf16>::supports<bf16>);
#if TESSERA_HAS_ONEDNN
  EXPECT_TRUE((std::is_same_v<cpu::DefaultMatmul<float>, cpu::Packed<cpu::OneDnnMatmul>>));
#endif
}

}  // namespace
}  // namespace tessera::test
