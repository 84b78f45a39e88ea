// The policy that docs/writing-a-policy.md walks through.
#include "../../examples/relu_attention.hpp"

#include <gtest/gtest.h>

#include "support/gradient.hpp"
#include "tessera/models/vit/vit.hpp"

namespace tessera::test {
namespace {

TEST(ReluAttention, GradientsEqualFiniteDifferencesNearly) {
  // The bound is wide: a difference that straddles the kink of a ReLU is not the derivative.
  EXPECT_LT(
      (gradient_error<VisionTransformer<image<8, 1>, patch<4>, 12, 2, 3, 4, vit::policies<examples::ReluAttention>>>(
          3)),
      1e-3);
}

}  // namespace
}  // namespace tessera::test
