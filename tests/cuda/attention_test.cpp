#include "tessera/cuda/attention.hpp"

#include <algorithm>
#include <cmath>

#include "cuda/operation.hpp"
#include "support/definition.hpp"
#include "tessera/concepts.hpp"
#include "tessera/nn/attention.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
inline constexpr double bound = std::is_same_v<Scalar, bf16> ? 2e-2 : 1e-5;

// The operations' results, with the same inputs as the definition's.
template <class Scalar, int tokens, int heads, int width>
struct Attention {
  DeviceValues<Scalar> qkv, out, weights, d_qkv;
  DeviceValues<Accumulator<Scalar>> log_sums;

  explicit Attention(const Matrix& from)
      : qkv(from),
        out(from.rows, width),
        weights(from.rows * heads, tokens),
        d_qkv(from.rows, 3 * width),
        log_sums(from.rows / tokens * heads, tokens) {}

  void forward() {
    run_on_device<Scalar>(
        [&](cuda::Backend<Scalar>& backend) {
          attention_forward<tokens, heads>(backend, qkv.template input<3 * width>(), out.template output<width>(),
                                           log_sums.template output<tokens>());
        },
        out, log_sums);
  }
  void weigh() {
    run_on_device<Scalar>(
        [&](cuda::Backend<Scalar>& backend) {
          attention_weights<tokens, heads, width>(backend, qkv.template input<3 * width>(),
                                                  weights.template output<tokens>());
        },
        weights);
  }
  void backward(const NaiveAttention& naive, const Matrix& d_out) {
    const DeviceValues<Scalar> saved_out(naive.out), gradient(d_out);
    const DeviceValues<Accumulator<Scalar>> saved_log_sums(naive.log_sums);
    run_on_device<Scalar>(
        [&](cuda::Backend<Scalar>& backend) {
          attention_backward<tokens, heads>(backend, qkv.template input<3 * width>(), saved_out.template input<width>(),
                                            saved_log_sums.template input<tokens>(), gradient.template input<width>(),
                                            d_qkv.template output<3 * width>());
        },
        d_qkv);
  }
};

template <class Scalar, int tokens, int heads, int dim>
void check_attention(index images) {
  SCOPED_TRACE(fmt::format("{} images of {} tokens, {} heads of {}", images, tokens, heads, dim));
  constexpr int width = heads * dim;
  Random random(1, Purpose::test, 0, 0);
  const Matrix qkv = stored<Scalar>(normal(random, images * tokens, 3 * width)),
               d_out = stored<Scalar>(normal(random, images * tokens, width));
  const NaiveAttention naive(tokens, heads, qkv);
  Attention<Scalar, tokens, heads, width> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out, bound<Scalar>);
  expect_close("log_sums", attention.log_sums, naive.log_sums, 1e-5);
  attention.weigh();
  expect_close("weights", attention.weights, naive.weights, bound<Scalar>);
  attention.backward(naive, d_out);
  expect_close("d_qkv", attention.d_qkv, naive.gradient(d_out), bound<Scalar>);
}

template <class Scalar>
class DeviceAttention : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceAttention, DeviceScalars);

TYPED_TEST(DeviceAttention, EqualsTheDefinition) {
  check_attention<TypeParam, 1, 1, 4>(3);
  check_attention<TypeParam, 5, 2, 12>(2);
  check_attention<TypeParam, 16, 1, 16>(1);
  check_attention<TypeParam, 17, 2, 64>(2);
  check_attention<TypeParam, 17, 3, 15>(1);
  check_attention<TypeParam, 50, 2, 32>(1);
  check_attention<TypeParam, 64, 2, 16>(1);
  check_attention<TypeParam, 65, 1, 80>(2);
  check_attention<TypeParam, 101, 1, 40>(1);
}

TYPED_TEST(DeviceAttention, EqualsTheDefinitionForUsualModels) {
  check_attention<TypeParam, 197, 2, 64>(1);
  check_attention<TypeParam, 257, 1, 80>(1);
}

// Too much for the shared memory of one block.
TYPED_TEST(DeviceAttention, EqualsTheDefinitionOfLongSequences) {
  check_attention<TypeParam, 401, 1, 64>(1);
  check_attention<TypeParam, 221, 1, 128>(1);
}

TYPED_TEST(DeviceAttention, GoesForwardThrough1025Tokens) {
  constexpr int tokens = 1025, width = 64;
  Random random(1, Purpose::test, 0, 0);
  const Matrix qkv = stored<TypeParam>(normal(random, tokens, 3 * width));
  const NaiveAttention naive(tokens, 1, qkv);
  Attention<TypeParam, tokens, 1, width> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out, bound<TypeParam>);
  expect_close("log_sums", attention.log_sums, naive.log_sums, 1e-5);
}

// Scores to +-1e4, exact in every precision: of image i's keys, key i differs from all others, so that the largest
// score comes late or early.
template <class Scalar, int tokens>
void check_extreme_scores() {
  constexpr int width = 4, images = 3;
  Random random(1, Purpose::test, 0, 0);
  Matrix qkv = stored<Scalar>(normal(random, images * tokens, 3 * width));
  for (index row = 0; row < qkv.rows; ++row) {
    for (index c = 0; c < 2 * width; ++c) qkv(row, c) = 0;
    qkv(row, 0) = row % 2 == 0 ? 200 : -200;
    qkv(row, width) = row % tokens == row / tokens * (tokens - 1) / 2 ? 100 : -100;
  }
  const Matrix d_out = stored<Scalar>(normal(random, images * tokens, width));
  const NaiveAttention naive(tokens, 1, qkv);
  Attention<Scalar, tokens, 1, width> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out, bound<Scalar>);
  expect_close("log_sums", attention.log_sums, naive.log_sums, 1e-5);
  attention.weigh();
  expect_close("weights", attention.weights, naive.weights, bound<Scalar>);
  attention.backward(naive, d_out);
  // Weights are computed again from log_sums of 1e4, whose last digit is 1e-3.
  expect_close("d_qkv", attention.d_qkv, naive.gradient(d_out), 2e-2);
}

TYPED_TEST(DeviceAttention, ExtremeScoresDoNotOverflow) {
  check_extreme_scores<TypeParam, 50>();
  check_extreme_scores<TypeParam, 211>();
}

// Scores near -512, so that those of keys that do not exist, zero, would outweigh them.
template <class Scalar, int tokens>
void check_negative_scores() {
  constexpr int width = 4;
  Random random(1, Purpose::test, 0, 0);
  Matrix qkv = stored<Scalar>(normal(random, tokens, 3 * width));
  for (index row = 0; row < tokens; ++row) {
    qkv(row, 0) = 16;
    qkv(row, width) = -64;
  }
  const Matrix d_out = stored<Scalar>(normal(random, tokens, width));
  const NaiveAttention naive(tokens, 1, qkv);
  Attention<Scalar, tokens, 1, width> attention(qkv);
  attention.forward();
  // The last digit of such a score is 3e-5.
  expect_close("out", attention.out, naive.out, std::max(1e-3, bound<Scalar>));
  attention.backward(naive, d_out);
  expect_close("d_qkv", attention.d_qkv, naive.gradient(d_out), std::max(1e-3, bound<Scalar>));
}

TYPED_TEST(DeviceAttention, DoesNotSeeKeysThatDoNotExist) {
  check_negative_scores<TypeParam, 50>();
  check_negative_scores<TypeParam, 211>();
}

// Scores that grow from key to key: the shift of the softmax must follow them.
TYPED_TEST(DeviceAttention, FollowsGrowingScores) {
  constexpr int tokens = 197, width = 16;
  Random random(1, Purpose::test, 0, 0);
  Matrix qkv = normal(random, tokens, 3 * width);
  for (index row = 0; row < tokens; ++row) {
    qkv(row, 0) = 1;
    qkv(row, width) = static_cast<double>(row);
  }
  qkv = stored<TypeParam>(qkv);
  const NaiveAttention naive(tokens, 1, qkv);
  Attention<TypeParam, tokens, 1, width> attention(qkv);
  attention.forward();
  expect_close("out", attention.out, naive.out, bound<TypeParam>);
  expect_close("log_sums", attention.log_sums, naive.log_sums, 1e-5);
}

template <class Policy, class Scalar, int tokens, int heads, int dim>
void check_policy(index images) {
  static_assert(AttentionPolicy<Policy>);
  constexpr int width = heads * dim;
  Random random(1, Purpose::test, 0, 0);
  const Matrix qkv = stored<Scalar>(normal(random, images * tokens, 3 * width)),
               gradient = stored<Scalar>(normal(random, images * tokens, width));
  const NaiveAttention naive(tokens, heads, qkv);
  const DeviceValues<Scalar> from(qkv), d_out(gradient), out(qkv.rows, width), d_qkv(qkv.rows, 3 * width);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        struct {
        } alone;
        Context<cuda::Backend<Scalar>, decltype(alone)> context{backend, alone};
        const auto frame = context.frame();
        const auto saved = Policy::template forward<tokens, heads>(context, from.template input<3 * width>(),
                                                                   out.template output<width>());
        Policy::template backward<tokens, heads>(context, from.template input<3 * width>(), out.template input<width>(),
                                                 saved, d_out.template input<width>(),
                                                 d_qkv.template output<3 * width>());
      },
      out, d_qkv);
  expect_close("out", out, naive.out, bound<Scalar>);
  expect_close("d_qkv", d_qkv, naive.gradient(gradient), bound<Scalar>);
}

TYPED_TEST(DeviceAttention, PoliciesEqualTheDefinition) {
  check_policy<attention::SoftmaxAttention, TypeParam, 17, 3, 12>(2);
  check_policy<attention::SoftmaxAttention, TypeParam, 50, 2, 64>(1);
}

}  // namespace
}  // namespace tessera::test
