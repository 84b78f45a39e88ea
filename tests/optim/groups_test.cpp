#include "tessera/optim/groups.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"

namespace tessera::test {
namespace {

Entry tensor(std::string_view name, Shape shape = Shape(4, 4)) {
  return {Name(name), shape, Role::trained, {}, 0};
}

TEST(Groups, AreAlikeByDefault) {
  EXPECT_EQ(optim::uniform()(tensor("head.weight")), optim::Group{});
  EXPECT_EQ(optim::uniform()(tensor("head.bias", Shape(4))), optim::Group{});
}

TEST(Groups, VectorsAndNamedTensorsDoNotDecay) {
  const optim::Grouping grouping = optim::no_decay_of_vectors({"cls_token"});
  EXPECT_EQ(grouping(tensor("head.weight")), optim::Group{});
  EXPECT_EQ(grouping(tensor("norm.weight", Shape(4))), optim::Group{.decay = 0});
  EXPECT_EQ(grouping(tensor("scale", Shape())), optim::Group{.decay = 0});
  EXPECT_EQ(grouping(tensor("encoder.cls_token", Shape(1, 1, 4))), optim::Group{.decay = 0});
  EXPECT_EQ(grouping(tensor("pos_embed", Shape(1, 5, 4))), optim::Group{});
}

TEST(Groups, LayersHaveRatesThatFallTowardsTheInput) {
  const std::vector<double> rates = Fixture("study_schedules").tensor("layer_decay_0.65_12").values;
  const optim::Grouping grouping = optim::layer_decay(12, 0.65);
  const auto expect = [&](std::string_view name, std::size_t layer, Shape shape, double decay) {
    const optim::Group group = grouping(tensor(name, shape));
    EXPECT_NEAR(group.rate, rates.at(layer), 1e-15) << name;
    EXPECT_EQ(group.decay, decay) << name;
    EXPECT_FALSE(group.frozen) << name;
  };
  for (const std::string prefix : {"", "encoder."}) {
    expect(prefix + "cls_token", 0, Shape(1, 1, 4), 0);
    expect(prefix + "pos_embed", 0, Shape(1, 5, 4), 0);
    expect(prefix + "patch_embed.proj.weight", 0, Shape(4, 3, 2, 2), 1);
    expect(prefix + "patch_embed.proj.bias", 0, Shape(4), 0);
    for (std::size_t block = 0; block < 12; ++block)
      expect(prefix + "blocks." + std::to_string(block) + ".mlp.fc1.weight", block + 1, Shape(8, 4), 1);
    expect(prefix + "norm.weight", 13, Shape(4), 0);
  }
  expect("head.weight", 13, Shape(10, 4), 1);
  EXPECT_NEAR(grouping(tensor("patch_embed.proj.weight")).rate, 0.0036972, 1e-7);
  EXPECT_EQ(grouping(tensor("blocks.11.attn.qkv.weight")).rate, 0.65);
  EXPECT_EQ(grouping(tensor("head.weight")).rate, 1);
}

TEST(Groups, OtherPrefixesAndUndecayedNamesAreTaken) {
  const optim::Grouping grouping = optim::layer_decay(2, 0.5, "base.", {"pos_embed"});
  EXPECT_EQ(grouping(tensor("base.cls_token")), optim::Group{.rate = 0.125});
  EXPECT_EQ(grouping(tensor("base.blocks.1.attn.proj.weight")), optim::Group{.rate = 0.5});
  EXPECT_EQ(grouping(tensor("encoder.blocks.1.attn.proj.weight")), optim::Group{});
}

TEST(Groups, RefuseADepthOrFactorThatCannotBe) {
  EXPECT_THROW(static_cast<void>(optim::layer_decay(12, 0)), Error);
  EXPECT_THROW(static_cast<void>(optim::layer_decay(12, 1.5)), Error);
  EXPECT_THROW(optim::layer_decay(2, 0.5)(tensor("blocks.2.norm1.weight")), Error);
  EXPECT_THROW(optim::layer_decay(2, 0.5)(tensor("blocks.x.norm1.weight")), Error);
}

TEST(Groups, AreListedForEveryEntry) {
  const std::array entries{tensor("a"), tensor("b", Shape(3))};
  const std::vector<optim::Group> groups = optim::groups_of(entries, optim::no_decay_of_vectors());
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0], optim::Group{});
  EXPECT_EQ(groups[1], optim::Group{.decay = 0});
}

}  // namespace
}  // namespace tessera::test
