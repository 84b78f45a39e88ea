#include "tessera/cpu/attention.hpp"

#include "support/definition.hpp"
#include "support/operation.hpp"

namespace tessera::test {
namespace {

// Runs all three operations; out, log_sums and weights are left to look at.
template <class Scalar, int tokens, int heads, int width>
struct Attention {
  Values<Scalar> qkv, out, weights, d_qkv;
  Sums<Scalar> log_sums;

  explicit Attention(const Matrix& from)
      : qkv(from),
        out(from.rows, width),
        weights(from.rows * heads, tokens),
        d_qkv(from.rows, 3 * width),
        log_sums(from.rows / tokens * heads, tokens) {}

  void forward() {
    run_operation<Scalar>(
        [&](auto& backend) {
          attention_forward<tokens, heads>(backend, input<3 * width>(qkv), output<width>(out),
                                           output<tokens>(log_sums));
          attention_weights<tokens, heads, width>(backend, input<3 * width>(qkv), output<tokens>(weights));
        },
        out, log_sums, weights);
  }

  void backward(const NaiveAttention& naive, const Matrix& d_out) {
    const Values<Scalar> saved_out(naive.out), gradient(d_out);
    const Sums<Scalar> saved_log_sums(naive.log_sums);
    run_operation<Scalar>(
        [&](auto& backend) {
          attention_backward<tokens, heads>(backend, input<3 * width>(qkv), input<width>(saved_out),
                                            input<tokens>(saved_log_sums), input<width>(gradient),
                                            output<3 * width>(d_qkv));
        },
        d_qkv);
  }
};

template <class Scalar, int tokens, int heads, int width>
void check_attention(index images) {
  SCOPED_TRACE(fmt::format("{} images of {} tokens, {} heads of {}", images, tokens, heads, width / heads));
  Random random(1, Purpose::test, 0, 0);
  const Matrix qkv = normal<Scalar>(random, images * tokens, 3 * width),
               d_out = normal<Scalar>(random, images * tokens, width);
  const NaiveAttention naive(tokens, heads, qkv);
  Attention<Scalar, tokens, heads, width> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out);
  expect_close("log_sums", attention.log_sums, naive.log_sums);
  expect_close("weights", attention.weights, naive.weights);
  attention.backward(naive, d_out);
  expect_close("d_qkv", attention.d_qkv, naive.gradient(d_out));

  for (index row = 0; row < attention.weights.rows(); ++row) {
    double sum = 0;
    for (index j = 0; j < tokens; ++j) sum += attention.weights(row, j);
    EXPECT_NEAR(sum, 1, rounding<Scalar>) << "weights of row " << row;
  }
}

template <class Scalar>
class SoftmaxAttention : public testing::Test {};
TYPED_TEST_SUITE(SoftmaxAttention, Scalars);

TYPED_TEST(SoftmaxAttention, EqualsTheDefinition) {
  check_attention<TypeParam, 1, 1, 4>(3);
  check_attention<TypeParam, 5, 2, 8>(2);
  check_attention<TypeParam, 17, 3, 45>(2);
  check_attention<TypeParam, 50, 2, 64>(2);
  check_attention<TypeParam, 197, 1, 80>(1);
}

// Image i's key i differs from all others. Queries and keys have one value each, so that scores, +-1e4, are exact in
// every precision.
TYPED_TEST(SoftmaxAttention, ExtremeScoresDoNotOverflow) {
  constexpr int tokens = 50;
  Random random(1, Purpose::test, 0, 0);
  Matrix qkv = normal<TypeParam>(random, tokens * tokens, 3 * 4);
  for (index row = 0; row < qkv.rows; ++row) {
    for (index c = 0; c < 8; ++c) qkv(row, c) = 0;
    qkv(row, 0) = row % 2 == 0 ? 200 : -200;
    qkv(row, 4) = row % tokens == row / tokens ? 100 : -100;
  }
  const Matrix d_out = normal<TypeParam>(random, tokens * tokens, 4);
  const NaiveAttention naive(tokens, 1, qkv);
  Attention<TypeParam, tokens, 1, 4> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out);
  expect_close("log_sums", attention.log_sums, naive.log_sums);
  expect_close("weights", attention.weights, naive.weights);
  attention.backward(naive, d_out);
  // Backward computes weights from log_sums of 1e4, whose last digit is 1e4 epsilon.
  const double last_digit = 1e4 * static_cast<double>(std::numeric_limits<Accumulator<TypeParam>>::epsilon());
  expect_close("d_qkv", attention.d_qkv, naive.gradient(d_out), std::max(last_digit, rounding<TypeParam>));
}

TYPED_TEST(SoftmaxAttention, DoesNotSeeAShiftOfAllKeys) {
  constexpr int tokens = 17, width = 45, heads = 3, dim = width / heads;
  Random random(1, Purpose::test, 0, 0);
  const Matrix shifted = normal<TypeParam>(random, tokens, 3 * width), shift = normal(random, 1, width);
  Matrix qkv = shifted, log_sums(heads, tokens);
  for (index i = 0; i < tokens; ++i)
    for (index c = 0; c < width; ++c) {
      qkv(i, width + c) -= shift(0, c);
      log_sums(c / dim, i) += shift(0, c) * qkv(i, c) / std::sqrt(dim);
    }
  const NaiveAttention naive(tokens, heads, qkv);
  for (index head = 0; head < heads; ++head)
    for (index i = 0; i < tokens; ++i) log_sums(head, i) += naive.log_sums(head, i);
  Attention<TypeParam, tokens, heads, width> attention(shifted);
  attention.forward();
  expect_close("out", attention.out, naive.out);
  expect_close("weights", attention.weights, naive.weights);
  expect_close("log_sums", attention.log_sums, log_sums);
}

}  // namespace
}  // namespace tessera::test
