#include "tessera/data/normalization.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tessera/data/idx.hpp"

namespace tessera::test {
namespace {

using data::Normalization;

struct OneColour {
  std::vector<std::uint8_t> pixels{0, 51, 7, 255, 51, 7};
  [[nodiscard]] int size() const { return 1; }
  [[nodiscard]] data::ImageView decode(int, data::Image&) const { return {pixels.data(), 1, 2, 3}; }
};

TEST(Normalization, IsMeasuredChannelByChannel) {
  const Normalization n = data::measure_normalization(OneColour{});
  EXPECT_FLOAT_EQ(n.mean[0], 0.5f);
  EXPECT_FLOAT_EQ(n.deviation[0], 0.5f);
  EXPECT_FLOAT_EQ(n.mean[1], 0.2f);
  EXPECT_EQ(n.deviation[1], 1);  // a constant channel stays what it is, less its mean
}

struct NoImage : OneColour {
  [[nodiscard]] int size() const { return 0; }
};
// The same values as three pixels of two channels: 0, 7, 51 and 51, 255, 7.
struct TwoChannels : OneColour {
  [[nodiscard]] data::ImageView decode(int, data::Image&) const { return {pixels.data(), 1, 3, 2}; }
};

// A grey image of one pixel, 255, then images whose channels are 51.
struct GreyFirst {
  int channels, last_channels;
  [[nodiscard]] int size() const { return 3; }
  [[nodiscard]] data::ImageView decode(int i, data::Image& scratch) const {
    scratch.resize(1, 1, i == 0 ? 1 : i == 1 ? channels : last_channels);
    for (std::uint8_t& value : scratch.pixels) value = i == 0 ? 255 : 51;
    return scratch;
  }
};

TEST(Normalization, IsMeasuredOnAnyNumberOfChannels) {
  for (const int channels : {2, 5, data::most_channels}) {
    const Normalization n = data::measure_normalization(GreyFirst{channels, channels});
    ASSERT_EQ(n.channels, channels < 3 ? 3 : channels);
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
      EXPECT_FLOAT_EQ(n.mean[c], 1.4f / 3);
      EXPECT_FLOAT_EQ(n.deviation[c], std::sqrt(1.08f / 3 - 1.96f / 9));
    }
  }
  const Normalization of_two = data::measure_normalization(TwoChannels{});
  EXPECT_EQ(of_two.channels, 3);
  EXPECT_FLOAT_EQ(of_two.mean[0], 58.0f / 3 / 255);
  EXPECT_EQ(of_two.mean[2], 0);
  EXPECT_EQ(of_two.deviation[2], 1);
}

TEST(Normalization, RefusesWhatCannotBeMeasured) {
  EXPECT_THAT([] { return data::measure_normalization(NoImage{}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("the data set has no image")));
  EXPECT_THAT(
      [] {
        return data::measure_normalization(GreyFirst{5, 3});
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("image 2 has 1 x 1 pixels of 3 channel(s)")));
  EXPECT_THAT(
      [] {
        return data::measure_normalization(GreyFirst{17, 17});
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("image 1 has 1 x 1 pixels of 17 channel(s)")));
}

TEST(Normalization, OfFashionMnistIsThePublicOne) {
  const Normalization n = data::measure_normalization(data::IdxDataset("/usr/share/datasets/fashion-mnist", "train"));
  ASSERT_EQ(n.channels, 3);
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(static_cast<double>(n.mean[c]), 0.2860, 5e-5);
    EXPECT_NEAR(static_cast<double>(n.deviation[c]), 0.3530, 5e-5);
  }
}

TEST(Normalization, ReadsWhatItWrote) {
  const Normalization n{{0.1f, -2.5e-7f, 1.0f / 3}, {1e-6f, 0.353f, 7}};
  const Normalization read = data::normalization_from(data::to_text(n), "here");
  EXPECT_EQ(read.mean, n.mean);
  EXPECT_EQ(read.deviation, n.deviation);
  EXPECT_EQ(data::to_text(data::imagenet_normalization), "0.485 0.456 0.406 0.229 0.224 0.225");
}

TEST(Normalization, HasTheTextOfAllChannels) {
  const Normalization five{{0.1f, 0.2f, 0.3f, 0.4f, 0.5f}, {1, 2, 3, 4, 5}, 5};
  EXPECT_EQ(data::to_text(five), "0.1 0.2 0.3 0.4 0.5 1 2 3 4 5");
  Normalization most{};
  most.channels = data::most_channels;
  for (std::size_t c = 0; c < most.mean.size(); ++c)
    most.deviation[c] = 1 / (most.mean[c] = static_cast<float>(c + 3) / 7);
  for (const Normalization& n : {five, most}) {
    const Normalization read = data::normalization_from(data::to_text(n), "here");
    EXPECT_EQ(read.channels, n.channels);
    EXPECT_EQ(read.mean, n.mean);
    EXPECT_EQ(read.deviation, n.deviation);
  }
  EXPECT_THROW(static_cast<void>(data::normalization_from(data::to_text(most) + " 1 1", "here")), Error);
}

TEST(Normalization, IsOneForImagesOfItsChannels) {
  EXPECT_NO_THROW(data::check_normalization(data::imagenet_normalization, 1));
  EXPECT_NO_THROW(data::check_normalization(data::imagenet_normalization, 3));
  EXPECT_THAT([] { data::check_normalization(data::imagenet_normalization, 5); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("has 3 channels, but images of 5 are normalised")));
  EXPECT_THROW(data::check_normalization({{0, 0}, {1, 1}, 2}, 2), Error);
  EXPECT_THROW(data::check_normalization({{}, {1, 1, 1, 1, 1}, 17}, 2), Error);
  EXPECT_THROW(data::check_normalization({{}, {1, 1, 1, 1, -1}, 5}, 2), Error);
}

TEST(Normalization, RefusesOtherText) {
  for (const char* text :
       {"", "1 2 3 4 5", "1 2 3 4 5 6 7", "1 2 3 4 5 x", "1 2 3 4 5 6x", "1 2 3 0 5 6", "1 2 3 -4 5 6", "nan 2 3 4 5 6",
        "1 2 3 4 5 inf", "1 2", "1 2 3 4", "1 2 3 4 5 6 ", "1 2 3 4 5 6 7 0", "1 2 3 4 5 6 7 8 9"})
    EXPECT_THAT([&] { static_cast<void>(data::normalization_from(text, "run.safetensors")); },
                testing::ThrowsMessage<Error>(testing::HasSubstr("run.safetensors: '")))
        << text;
}

}  // namespace
}  // namespace tessera::test
