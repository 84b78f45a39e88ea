#include "tessera/data/fingerprint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tessera/data/idx.hpp"

namespace tessera::test {
namespace {

using Bytes = std::vector<std::uint8_t>;

[[nodiscard]] std::string of(int height, int width, Bytes pixels, Bytes labels) {
  return data::fingerprint(data::AnyDataset(data::IdxDataset(height, width, std::move(pixels), std::move(labels))));
}

TEST(Fingerprint, OfImagesInMemoryIsThatOfAllThatTheyAre) {
  const std::string whole = of(1, 2, {1, 2, 3, 4}, {0, 1});
  EXPECT_EQ(whole.size(), 16u);
  EXPECT_EQ(of(1, 2, {1, 2, 3, 4}, {0, 1}), whole);
  EXPECT_NE(of(2, 1, {1, 2, 3, 4}, {0, 1}), whole) << "size";
  EXPECT_NE(of(1, 2, {1, 2, 3, 5}, {0, 1}), whole) << "a pixel";
  EXPECT_NE(of(1, 2, {3, 4, 1, 2}, {0, 1}), whole) << "order";
  EXPECT_NE(of(1, 2, {1, 2, 3, 4}, {1, 0}), whole) << "labels";
  EXPECT_NE(of(1, 2, {1, 2}, {0}), whole) << "number";
}

// Files, one pixel each.
struct Files {
  std::vector<std::string> names;
  Bytes pixels;
  [[nodiscard]] int size() const { return static_cast<int>(names.size()); }
  [[nodiscard]] std::string name(int i) const { return names[static_cast<std::size_t>(i)]; }
  [[nodiscard]] data::ImageView decode(int i, data::Image&) const {
    if (name(i) == "unread") ADD_FAILURE();
    return {pixels.data() + i, 1, 1, 1};
  }
};

TEST(Fingerprint, OfFilesIsThatOfTheirNames) {
  const auto of = [](std::vector<std::string> names, Bytes pixels) {
    return data::fingerprint(data::AnyDataset(Files{std::move(names), std::move(pixels)}));
  };
  EXPECT_EQ(of({"unread", "unread"}, {1, 2}), of({"unread", "unread"}, {1, 3}));
  EXPECT_NE(of({"a", "b"}, {1, 2}), of({"b", "a"}, {1, 2}));
  EXPECT_NE(of({"a", "b"}, {1, 2}), of({"ab", ""}, {1, 2}));
}

TEST(Fingerprint, OfContentsIsThatOfPixels) {
  const auto of = [](Bytes pixels) {
    return data::fingerprint_of_contents(data::AnyDataset(Files{{"a", "b"}, std::move(pixels)}));
  };
  EXPECT_EQ(of({1, 2}), of({1, 2}));
  EXPECT_NE(of({1, 2}), of({1, 3}));
  EXPECT_NE(of({1, 2}), of({2, 1}));
}

}  // namespace
}  // namespace tessera::test
