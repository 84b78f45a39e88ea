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
    Case<cpu::EigenMatmul, double>, Case<cpu::EigenMatmul, float>>;

struct Shape {
  index m, n, k;
};

// Stored matrices are wider than the operands: what lies beyond must not be read or written.
constexpr index gap = 3;

Matrix stored(Random& random, index rows, index columns, bool transposed) {
  Matrix matrix = transposed ? normal(random, columns, rows + gap) : normal(random, rows, columns + gap);
  for (index r = 0; r < matrix.rows; ++r)
    for (index c = matrix.columns - gap; c < matrix.columns; ++c) matrix(r, c) = 1e6;
  return matrix;
}

template <class Policy, class Scalar>
void check_product(const Shape& shape, bool transpose_a, bool transpose_b, bool accumulate) {
  const auto [m, n, k] = shape;
  SCOPED_TRACE(fmt::format("{} x {} x {}{}{}{}", m, n, k, transpose_a ? ", a transposed" : "",
                           transpose_b ? ", b transposed" : "", accumulate ? ", added" : ""));
  Random random(1, Purpose::test, 0, 0);
  const Matrix a = stored(random, m, k, transpose_a), b = stored(random, k, n, transpose_b);
  Matrix c(m, n + gap, std::numeric_limits<double>::quiet_NaN());
  if (accumulate) c = normal(random, m, n + gap);
  for (index i = 0; i < m; ++i)
    for (index j = n; j < n + gap; ++j) c(i, j) = 5;
  Values<Scalar> c_values(c);
  const Values<Scalar> a_values(a), b_values(b), before = c_values;
  for (index i = 0; i < m; ++i)
    for (index j = 0; j < n; ++j) {
      double sum = accumulate ? c(i, j) : 0;
      for (index l = 0; l < k; ++l) sum += (transpose_a ? a(l, i) : a(i, l)) * (transpose_b ? b(j, l) : b(l, j));
      c(i, j) = sum;
    }
  Policy::multiply(m, n, k, cpu::Operand<Scalar>{a_values.data(), a.columns, transpose_a},
                   cpu::Operand<Scalar>{b_values.data(), b.columns, transpose_b}, c_values.data(), c.columns,
                   accumulate);
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

TEST(DefaultMatmul, SupportsItsScalar) {
  EXPECT_TRUE(cpu::DefaultMatmul<double>::supports<double>);
  EXPECT_TRUE(cpu::DefaultMatmul<float>::supports<float>);
#if TESSERA_HAS_ONEDNN
  EXPECT_TRUE((std::is_same_v<cpu::DefaultMatmul<float>, cpu::OneDnnMatmul>));
#endif
}

}  // namespace
}  // namespace tessera::test
