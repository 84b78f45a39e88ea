// Position table, initial values, parameter counts and names of docs/method.md, 2.5, 2.6, 2.10 and 2.11.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tessera/core/init.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

template <class Model>
constexpr index parameters = Layout<Model>::parameter_count;

using Patch7 = patch<7>;
static_assert(parameters<vit::Small<>> == 21'665'664);
static_assert(parameters<vit::Base<>> == 85'798'656);
static_assert(parameters<vit::Large<>> == 303'301'632);
static_assert(parameters<vit::Huge<>> == 630'764'800);
static_assert(parameters<vit::Small<image<224>, Patch7>> == 21'745'152);
static_assert(parameters<vit::Base<image<224>, Patch7>> == 85'957'632);
static_assert(parameters<vit::Large<image<224>, Patch7>> == 303'513'600);
static_assert(parameters<vit::ConvSmall<>> == 20'617'392);
static_assert(parameters<vit::ConvBase<>> == 82'199'904);

// ViT-BN has the same parameters; the statistics of its BatchNorms are no parameters.
using WithBatchNorm = vit::policies<mlp_norm::BatchNorm>;
static_assert(parameters<vit::Small<image<224>, patch<16>, WithBatchNorm>> == 21'665'664);
static_assert(parameters<vit::Base<image<224>, patch<16>, WithBatchNorm>> == 85'798'656);

using Frozen = vit::policies<embed::FrozenPatches>;
template <class Encoder>
constexpr index trained = Layout<typename objectives::MoCoV3<Encoder>::Networks::Online>::trained_count;
static_assert(trained<vit::Small<>> == 43'110'400);
static_assert(trained<vit::Base<>> == 108'740'608);
static_assert(trained<vit::Large<>> == 327'241'728);
static_assert(trained<vit::Huge<>> == 655'626'240);
static_assert(trained<vit::Small<image<224>, patch<16>, Frozen>> == 42'815'104);
static_assert(trained<vit::Base<image<224>, patch<16>, Frozen>> == 108'150'016);
static_assert(trained<vit::Large<image<224>, patch<16>, Frozen>> == 326'454'272);
static_assert(trained<vit::Huge<image<224>, patch<14>, Frozen>> == 654'872'320);

TEST(Layout, HasThePublicNamesInOrder) {
  constexpr auto& entries = Layout<objectives::MoCoV3<vit::Small<>>::Networks::Online>::entries;
  const std::vector<std::string_view> first{"base_encoder.cls_token",
                                            "base_encoder.pos_embed",
                                            "base_encoder.patch_embed.proj.weight",
                                            "base_encoder.patch_embed.proj.bias",
                                            "base_encoder.blocks.0.norm1.weight",
                                            "base_encoder.blocks.0.norm1.bias",
                                            "base_encoder.blocks.0.attn.qkv.weight"};
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(entries[i].name.view(), first[i]);
  EXPECT_EQ(entries[166].name.view(), "predictor.0.weight");  // 150 tensors of the encoder, 16 of the projector
  EXPECT_EQ(entries.size(), 176u);
  EXPECT_EQ(entries[6].shape, Shape(1152, 384));
  for (const Entry& entry : entries) EXPECT_EQ(entry.offset % entry_alignment, 0);
}

TEST(Initialize, FollowsTheReference) {
  using Model = vit::Small<>;
  std::vector<float> values(static_cast<std::size_t>(Layout<Model>::parameters)), none(1);
  initialize(std::span<const Entry>(Layout<Model>::entries), 1, values.data(), none.data());
  const auto largest = [&](std::string_view name) {
    float most = 0;
    for (const Entry& entry : Layout<Model>::entries)
      if (entry.name.view() == name)
        for (index i = 0; i < entry.size(); ++i)
          most = std::max(most, std::abs(values[static_cast<std::size_t>(entry.offset + i)]));
    return static_cast<double>(most);
  };
  EXPECT_NEAR(largest("patch_embed.proj.weight"), 0.0721688, 1e-5);
  EXPECT_NEAR(largest("blocks.3.attn.qkv.weight"), 0.0883883, 1e-5);
  EXPECT_NEAR(largest("blocks.3.attn.proj.weight"), 0.0883883, 1e-5);
  EXPECT_NEAR(largest("blocks.3.mlp.fc2.weight"), 0.0559017, 1e-5);
  EXPECT_EQ(largest("blocks.3.mlp.fc1.bias"), 0);
  EXPECT_EQ(largest("norm.weight"), 1);
  EXPECT_LT(largest("cls_token"), 1e-5);
}

TEST(SinCos, EqualsTheSpecification) {  // width 384, row 1, column 2
  const std::vector<std::pair<int, double>> expected{
      {0, 0.841471},    {1, 0.788593},    {95, 0.0001101},   {96, 0.5403023},  {97, 0.6149155}, {192, 0.9092974},
      {193, 0.9698361}, {287, 0.0002201}, {288, -0.4161468}, {289, -0.243758}, {383, 1}};
  for (const auto& [channel, value] : expected) EXPECT_NEAR(sincos_2d(1, 2, channel, 384), value, 1e-6);
}

}  // namespace
}  // namespace tessera::test
