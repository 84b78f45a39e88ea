#include "tessera/models/vit/policies.hpp"

#include <gtest/gtest.h>

#include "../../../examples/relu_attention.hpp"
#include "tessera/models/vit/conv_stem.hpp"

namespace tessera::test {
namespace {

template <class One, class Two>
constexpr bool same = std::is_same_v<One, Two>;

TEST(Policies, HaveTheReferencesChoiceAsDefault) {
  using None = vit::policies<>;
  static_assert(same<None::Embed, embed::Patches> && same<None::Position, position::SinCos2d>);
  static_assert(same<None::Attention, attention::SoftmaxAttention> && same<None::Pooling, pooling::ClassToken>);
  static_assert(same<None::MlpNorm, mlp_norm::LayerNorm> && same<None::Activation, nn::Gelu>);
  static_assert(same<None::Recompute, recompute::None>);
}

TEST(Policies, AreRecognizedInAnyOrder) {
  using All = vit::policies<recompute::Blocks, nn::GeluTanh, mlp_norm::BatchNorm, pooling::MeanNorm,
                            examples::ReluAttention, position::Learned, embed::ConvStem>;
  static_assert(same<All::Embed, embed::ConvStem> && same<All::Position, position::Learned>);
  static_assert(same<All::Attention, examples::ReluAttention> && same<All::Pooling, pooling::MeanNorm>);
  static_assert(same<All::MlpNorm, mlp_norm::BatchNorm> && same<All::Activation, nn::GeluTanh>);
  static_assert(same<All::Recompute, recompute::Blocks>);
  using Two = vit::policies<position::None, embed::FrozenPatches>;
  static_assert(same<Two::Embed, embed::FrozenPatches> && same<Two::Position, position::None>);
  static_assert(same<Two::Pooling, pooling::ClassToken> && same<Two::Activation, nn::Gelu>);
}

}  // namespace
}  // namespace tessera::test
