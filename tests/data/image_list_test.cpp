#include "tessera/data/image_list.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/test_data.hpp"

namespace tessera::test {
namespace {

using data::Image;
using data::ImageList;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

class ImageListTest : public testing::Test {
 protected:
  ImageListTest() { std::filesystem::create_directories(folder); }
  ~ImageListTest() override { std::filesystem::remove_all(folder); }

  [[nodiscard]] ImageList list(const std::string& text, const data::ImageListOptions& options = {}) const {
    std::ofstream(folder / "list.txt") << text;
    return ImageList(folder / "list.txt", options);
  }
  void expect_refused(const std::string& text, const std::string& line, const std::string& why) const {
    EXPECT_THAT([&] { static_cast<void>(list(text)); },
                ThrowsMessage<Error>(AllOf(HasSubstr("list.txt"), HasSubstr(line), HasSubstr(why))))
        << text;
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_image_list_" + std::to_string(::getpid()));
};

[[nodiscard]] std::vector<std::string> lines(const ImageList& images) {
  std::vector<std::string> lines;
  for (int i = 0; i < images.size(); ++i) lines.push_back(fmt::format("{} {}", images.label(i), images.name(i)));
  return lines;
}

TEST_F(ImageListTest, NumbersLabelsInSortedOrder) {
  const ImageList images = list("b/2.png\tdog\na b.png\tcat\n\nc.jpg\tdog");
  EXPECT_TRUE(images.labelled());
  EXPECT_THAT(images.classes(), ElementsAre("cat", "dog"));
  EXPECT_THAT(lines(images), ElementsAre("1 b/2.png", "0 a b.png", "1 c.jpg"));
}

TEST_F(ImageListTest, TakesNumbersAsTheyAre) {
  const ImageList images = list(
      "\xef\xbb\xbf"
      "a.png\t10\r\nb.png\t2\r\n");
  EXPECT_EQ(images.classes().size(), 11u);
  EXPECT_THAT(lines(images), ElementsAre("10 a.png", "2 b.png"));
  EXPECT_THAT(list("a\t1\nb\t01\n").classes(), ElementsAre("01", "1")) << "01 is a name";
  EXPECT_THAT(list("a\t1\nb\t-1\n").classes(), ElementsAre("-1", "1"));
  EXPECT_THAT(list("a\t1\nb\t100000\n").classes(), ElementsAre("1", "100000"));
}

TEST_F(ImageListTest, MayHaveNoLabels) {
  const ImageList images = list("a.png\nb.png\n");
  EXPECT_FALSE(images.labelled());
  EXPECT_THAT(images.classes(), IsEmpty());
  EXPECT_THAT(lines(images), ElementsAre("0 a.png", "0 b.png"));
  EXPECT_FALSE(list("a.png\tx\nb.png\ty\n", {.labels = false}).labelled());
}

TEST_F(ImageListTest, TakesClassesOfOthers) {
  EXPECT_THAT(lines(list("a\tdog\n", {.classes = {"cat", "dog"}})), ElementsAre("1 a"));
  EXPECT_THAT(
      [&] {
        static_cast<void>(list("a\tcow\n", {.classes = {"cat", "dog"}}));
      },
      ThrowsMessage<Error>(HasSubstr("'cow'")));
}

TEST_F(ImageListTest, RefusesWrongLines) {
  expect_refused("", "list.txt", "no picture");
  expect_refused("\n\n", "list.txt", "no picture");
  expect_refused("a\t1\n\nb\n", "line 3", "no label");
  expect_refused("a\n\nb\t2\n", "line 3", "a label");
  expect_refused("a\t\n", "line 1", "one tab");
  expect_refused("a\tb\tc\n", "line 1", "one tab");
  expect_refused("\tb\n", "line 1", "no path");
  expect_refused(std::string("a\0b\n", 4), "line 1", "zero byte");
  EXPECT_THAT([&] { ImageList("nowhere/list.txt"); }, ThrowsMessage<Error>(HasSubstr("nowhere/list.txt")));
}

// Paths start at the list's folder, or are absolute.
TEST_F(ImageListTest, DecodesItsPictures) {
  const std::string fixtures = test_data() + "/fixtures/images/";
  std::filesystem::copy(fixtures + "grey8.png", folder / "here.png");
  const ImageList images = list("here.png\n" + fixtures + "exif_6.jpg\nmissing.png\n");
  Image scratch;
  EXPECT_EQ(images.decode(0, scratch).channels, 1);
  const int turned = images.decode(1, scratch).height;
  const ImageList stored = list(fixtures + "exif_6.jpg\n", {.orientation = data::Orientation::as_stored});
  EXPECT_EQ(stored.decode(0, scratch).width, turned);
  EXPECT_THAT([&] { static_cast<void>(images.decode(2, scratch)); }, ThrowsMessage<Error>(HasSubstr("missing.png")));
}

TEST_F(ImageListTest, RefusesFilesThatChange) {
  std::filesystem::copy(test_data() + "/fixtures/images/grey8.png", folder / "a.png");
  const ImageList images = list("a.png\n");
  Image scratch;
  static_cast<void>(images.decode(0, scratch));
  static_cast<void>(images.decode(0, scratch));
  std::filesystem::last_write_time(folder / "a.png",
                                   std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_THAT([&] { static_cast<void>(images.decode(0, scratch)); },
              ThrowsMessage<Error>(AllOf(HasSubstr("a.png"), HasSubstr("changed"))));
}

}  // namespace
}  // namespace tessera::test
