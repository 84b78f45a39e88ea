// The policy that docs/writing-a-policy.md walks through.
#include "../../examples/relu_attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/operation.hpp"
#include "tessera/core/init.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/testing/gradient.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<8, 1>, patch<4>, 12, 2, 3, 4, vit::policies<examples::ReluAttention>>;

TEST(ReluAttention, GradientsEqualFiniteDifferencesNearly) {
  // The bound is wide: a difference that straddles the kink of a ReLU is not the derivative.
  EXPECT_LT((testing::gradient_error<Encoder>(3)), 1e-3);
}

TEST(ReluAttention, WeightsAreReluOfTheScoresDividedByTheTokens) {
  constexpr int tokens = 5, heads = 2, width = 8, dim = width / heads;
  constexpr index images = 3;
  Random random(1, Purpose::test, 0, 0);
  const Matrix qkv = normal(random, images * tokens, 3 * width);
  Matrix expected(images * heads * tokens, tokens);
  for (index row = 0; row < expected.rows; ++row)
    for (index key = 0; key < tokens; ++key) {
      const index image = row / (heads * tokens), head = row / tokens % heads, first = image * tokens;
      double score = 0;
      for (index c = 0; c < dim; ++c)
        score += qkv(first + row % tokens, head * dim + c) * qkv(first + key, width + head * dim + c);
      expected(row, key) = std::max(score / std::sqrt(dim), 0.0) / tokens;
    }
  const Values<double> qkv_values(qkv);
  Values<double> weights(expected.rows, tokens);
  run_operation<double>(
      [&](auto& backend) {
        comm::Serial communicator;
        Context<cpu::Backend<double>, comm::Serial> context{backend, communicator};
        examples::ReluAttention::weights<tokens, heads>(context, input<3 * width>(qkv_values), output<tokens>(weights));
      },
      weights);
  expect_close("weights", weights, expected);
}

TEST(ReluAttention, MapsOfAnEncoderAreThePolicysOwn) {
  static_assert(Encoder::has_attention_maps);
  constexpr index images = 2, rows = images * Encoder::heads * Encoder::tokens;
  cpu::Backend<double> backend(1);
  comm::Serial communicator;
  std::vector<double> parameters(static_cast<std::size_t>(Layout<Encoder>::parameters)), none(1),
      x(images * Encoder::in), weights(rows * Encoder::tokens);
  initialize(std::span<const Entry>(Layout<Encoder>::entries), 1, parameters.data(), none.data());
  Random random(1, Purpose::test, 0, 0);
  for (double& value : x) value = random.normal();
  const auto p = bind<Encoder>(parameters.data(), none.data());
  for (const bool planned : {false, true}) {
    Context<cpu::Backend<double>, comm::Serial> context{backend, communicator, Mode::evaluate};
    Encoder::encode_attention(context, p, Rows<const double, Encoder::in>{x.data(), images}, 1,
                              Rows<double, Encoder::tokens>{weights.data(), rows});
    if (!planned) backend.arena().commit();
  }
  // Rows of a softmax sum to 1 and have no zeros.
  int zeros = 0, far_from_one = 0;
  for (index row = 0; row < rows; ++row) {
    double sum = 0;
    for (index key = 0; key < Encoder::tokens; ++key) {
      const double weight = weights[static_cast<std::size_t>(row * Encoder::tokens + key)];
      zeros += weight == 0 ? 1 : 0;
      sum += weight;
    }
    far_from_one += std::abs(sum - 1) > 0.01 ? 1 : 0;
  }
  EXPECT_GT(zeros, 0);
  EXPECT_GT(far_from_one, rows / 2);
}

}  // namespace
}  // namespace tessera::test
