#include "tessera/programs/names.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tessera::test {
namespace {

// Pictures of one pixel with these names.
struct Named {
  std::vector<std::string> names;
  [[nodiscard]] int size() const { return static_cast<int>(names.size()); }
  [[nodiscard]] data::ImageView decode(int, data::Image& scratch) const {
    scratch.resize(1, 1, 1);
    return scratch;
  }
  [[nodiscard]] std::string name(int i) const { return names[static_cast<std::size_t>(i)]; }
};

TEST(CsvField, IsQuotedByRfc4180) {
  EXPECT_EQ(programs::csv_field(""), "");
  EXPECT_EQ(programs::csv_field("cats/a b;c.jpg"), "cats/a b;c.jpg");
  EXPECT_EQ(programs::csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(programs::csv_field("\""), "\"\"\"\"");
  EXPECT_EQ(programs::csv_field("say \"hi\", twice"), "\"say \"\"hi\"\", twice\"");
  EXPECT_EQ(programs::csv_field("two\nlines"), "\"two\nlines\"");
  EXPECT_EQ(programs::csv_field("two\r"), "\"two\r\"");
}

TEST(FeaturesCsv, HasARowForEachPicture) {
  FeatureSet features{{0.1f, -2, 1e-30f, 3}, {}, 2, 2};
  EXPECT_EQ(programs::features_csv(features, {"a", "b,c"}), "name,f0,f1\na,0.1,-2\n\"b,c\",1e-30,3\n");
  features.labels = {7, 0};
  EXPECT_EQ(programs::features_csv(features, {"a", "b,c"}), "name,label,f0,f1\na,7,0.1,-2\n\"b,c\",0,1e-30,3\n");
}

TEST(PictureNames, AreNumbersWhereThereAreNone) {
  EXPECT_THAT(programs::picture_names(data::AnyDataset(Named{{"a.png", "", "b/c.png"}})),
              ::testing::ElementsAre("a.png", "1", "b/c.png"));
  EXPECT_EQ(programs::names_file("some/features.npy"), "some/features.names.txt");
}

TEST(PictureNames, HaveNoLineBreaks) {
  for (const std::string name : {"a\nb.png", "a\r.png"})
    EXPECT_THAT(
        [&] {
          static_cast<void>(programs::picture_names(data::AnyDataset(Named{{"a", name}})));
        },
        ::testing::ThrowsMessage<Error>(::testing::HasSubstr("picture 1 has a line break in its name")));
}

}  // namespace
}  // namespace tessera::test
