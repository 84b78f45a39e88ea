#include "tessera/data/normalization.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
struct TwoChannels : OneColour {
  [[nodiscard]] data::ImageView decode(int, data::Image&) const { return {pixels.data(), 1, 3, 2}; }
};

TEST(Normalization, RefusesWhatCannotBeMeasured) {
  EXPECT_THAT([] { return data::measure_normalization(NoImage{}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("the data set has no image")));
  EXPECT_THAT([] { return data::measure_normalization(TwoChannels{}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("image 0 has 1 x 3 pixels of 2 channel(s)")));
}

TEST(Normalization, OfFashionMnistIsThePublicOne) {
  const Normalization n = data::measure_normalization(data::IdxDataset("/usr/share/datasets/fashion-mnist", "train"));
  for (const float mean : n.mean) EXPECT_NEAR(static_cast<double>(mean), 0.2860, 5e-5);
  for (const float deviation : n.deviation) EXPECT_NEAR(static_cast<double>(deviation), 0.3530, 5e-5);
}

TEST(Normalization, ReadsWhatItWrote) {
  const Normalization n{{0.1f, -2.5e-7f, 1.0f / 3}, {1e-6f, 0.353f, 7}};
  const Normalization read = data::normalization_from(data::to_text(n), "here");
  EXPECT_EQ(read.mean, n.mean);
  EXPECT_EQ(read.deviation, n.deviation);
}

TEST(Normalization, RefusesOtherText) {
  for (const char* text : {"", "1 2 3 4 5", "1 2 3 4 5 6 7", "1 2 3 4 5 x", "1 2 3 4 5 6x", "1 2 3 0 5 6",
                           "1 2 3 -4 5 6", "nan 2 3 4 5 6", "1 2 3 4 5 inf"})
    EXPECT_THAT([&] { static_cast<void>(data::normalization_from(text, "run.safetensors")); },
                testing::ThrowsMessage<Error>(testing::HasSubstr("run.safetensors: '")))
        << text;
}

}  // namespace
}  // namespace tessera::test
