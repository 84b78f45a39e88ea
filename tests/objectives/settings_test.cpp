#include "tessera/objectives/settings.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numbers>
#include <string>
#include <string_view>

#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

using objectives::identity_of;
using testing::ElementsAre;
using testing::Pair;

struct Settings {
  Schedule share = 0.25, rate = constant_or_cosine(0.5, 2), decay = cosine(3, 1);
  constexpr void visit(auto&& v) {
    v("the-rate", rate, Range{0, 10}, "a rate");
    v("share", share, Range{0, 1}, "a share");
    v("decay", decay, Range{1, 3}, "a decay");
  }
};

TEST(Schedule, StaysOrFollowsHalfACosine) {
  for (const double epoch : {0.0, 1.5, 10.0}) {
    EXPECT_EQ(constant(0.25).at(epoch, 10), 0.25);
    EXPECT_EQ(Schedule(0.25).at(epoch, 10), 0.25);
    EXPECT_EQ(constant_or_cosine(0.5, 2).at(epoch, 10), 0.5);
  }
  EXPECT_EQ(cosine(3, 1).at(0, 10), 3);
  EXPECT_DOUBLE_EQ(cosine(3, 1).at(5, 10), 2);
  EXPECT_NEAR(cosine(3, 1).at(10, 10), 1, 1e-15);
  EXPECT_NEAR(cosine(3, 1).at(2.5, 10), 2 + std::numbers::sqrt2 / 2, 1e-15);
}

TEST(Schedule, TurnsItsCosineOn) {
  Schedule momentum = constant_or_cosine(0.99, 1);
  momentum.cosine = true;
  EXPECT_EQ(momentum, cosine(0.99, 1));
  EXPECT_NE(momentum, constant(0.99));
}

TEST(Settings, AreListedInTheirOrder) {
  static_assert(objectives::settings_count<Settings>() == 3);
  static_assert(objectives::settings_count<objectives::NoSettings>() == 0);
  EXPECT_EQ(objectives::place_of(&Settings::rate), 0u);
  EXPECT_EQ(objectives::place_of(&Settings::share), 1u);
  EXPECT_EQ(objectives::place_of(&Settings::decay), 2u);
  EXPECT_THAT(objectives::values_at(Settings{}, 0, 10), ElementsAre(0.5, 0.25, 3));
  Settings turned;
  turned.rate.cosine = true;
  turned.share = 0.75;
  EXPECT_THAT(objectives::values_at(turned, 10, 10),
              ElementsAre(testing::DoubleEq(2), 0.75, testing::DoubleNear(1, 1e-15)));
}

TEST(Settings, HaveKeysWithoutDashes) {
  EXPECT_EQ(objectives::key_of("moco-m"), "moco_m");
  EXPECT_EQ(objectives::key_of("a-b-c"), "a_b_c");
  EXPECT_EQ(objectives::key_of("share"), "share");
}

TEST(Settings, AreTheIdentityOfARun) {
  EXPECT_THAT(identity_of(Settings{}), ElementsAre(Pair("decay", "3"), Pair("decay_cos", "1"), Pair("share", "0.25"),
                                                   Pair("the_rate", "0.5"), Pair("the_rate_cos", "0")));
  Settings turned;
  turned.rate.cosine = true;
  turned.share = 0.1;
  EXPECT_EQ(identity_of(turned).at("the_rate_cos"), "1");
  EXPECT_EQ(identity_of(turned).at("share"), "0.1");
  EXPECT_TRUE(identity_of(objectives::NoSettings{}).empty());
  using MoCo = objectives::MoCoV3<vit::Tiny<>>;
  EXPECT_THAT(identity_of(MoCo::Settings{}),
              ElementsAre(Pair("moco_m", "0.99"), Pair("moco_m_cos", "0"), Pair("moco_t", "0.2")));
}

TEST(Settings, LieWithinTheirRanges) {
  const auto expect_refused = [](const std::string& sentence, auto change, std::string_view prefix = "") {
    Settings settings;
    change(settings);
    EXPECT_THAT([&] { objectives::check_settings(settings, prefix); },
                testing::ThrowsMessage<Error>(testing::StrEq(sentence)));
  };
  EXPECT_NO_THROW(objectives::check_settings(Settings{}));
  expect_refused("share must lie between 0 and 1, not 1.5", [](Settings& s) { s.share = 1.5; });
  expect_refused(
      "--share must lie between 0 and 1, not -1", [](Settings& s) { s.share = -1; }, "--");
  expect_refused(
      "--the-rate must lie between 0 and 10, not 11", [](Settings& s) { s.rate.end = 11; }, "--");
  expect_refused("decay must lie between 1 and 3, not nan",
                 [](Settings& s) { s.decay.start = std::numeric_limits<double>::quiet_NaN(); });
  expect_refused("decay must lie between 1 and 3, not inf",
                 [](Settings& s) { s.decay.start = std::numeric_limits<double>::infinity(); });
}

}  // namespace
}  // namespace tessera::test
