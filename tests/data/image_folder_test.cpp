#include "tessera/data/image_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/test_data.hpp"
#include "tessera/data/any_dataset.hpp"

namespace tessera::test {
namespace {

using data::AnyDataset;
using data::Image;
using data::ImageFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

[[nodiscard]] std::vector<std::string> names(const ImageFolder& images) {
  std::vector<std::string> names;
  for (int i = 0; i < images.size(); ++i) names.push_back(fmt::format("{} {}", images.label(i), images.name(i)));
  return names;
}

class ImageFolderTest : public testing::Test {
 protected:
  ~ImageFolderTest() override { std::filesystem::remove_all(folder); }

  // A copy of a picture of the fixture.
  void copy(const std::string& to, const std::string& from = "rgb8.png") const {
    std::filesystem::create_directories((folder / to).parent_path());
    std::filesystem::copy(test_data() + "/fixtures/images/" + from, folder / to);
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_image_folder_" + std::to_string(::getpid()));
};

// os.walk's folders are sorted as texts: "b/a-c" comes before "b/a/x", for - comes before /.
TEST_F(ImageFolderTest, HasTorchvisionsClassesAndOrder) {
  for (const char* name :
       {"b/z.PNG", "b/a/2.png", "b/a/10.jpeg", "b/a-c/1.jpg", "b/a/x/1.png", "B/1.png", "beside.png", "b/text.txt"})
    copy(name);
  std::filesystem::create_directories(folder / "empty");
  const ImageFolder images(folder);
  EXPECT_TRUE(images.labelled());
  EXPECT_THAT(images.classes(), ElementsAre("B", "b"));
  EXPECT_EQ(images.left_out(), 1) << "beside.png";
  EXPECT_THAT(names(images),
              ElementsAre("0 B/1.png", "1 b/z.PNG", "1 b/a/10.jpeg", "1 b/a/2.png", "1 b/a-c/1.jpg", "1 b/a/x/1.png"));
}

TEST_F(ImageFolderTest, WithoutClassesHasNoLabels) {
  copy("2.png");
  copy("1.png");
  const ImageFolder flat(folder);
  EXPECT_FALSE(flat.labelled());
  EXPECT_THAT(names(flat), ElementsAre("0 1.png", "0 2.png"));
  copy("deep/3.png");
  const ImageFolder all(folder, {.labels = false});
  EXPECT_FALSE(all.labelled());
  EXPECT_THAT(all.classes(), IsEmpty());
  EXPECT_THAT(names(all), ElementsAre("0 1.png", "0 2.png", "0 deep/3.png"));
}

TEST_F(ImageFolderTest, FollowsLinksOnceAround) {
  copy("a/1.png");
  std::filesystem::create_directory_symlink("..", folder / "a" / "up");
  std::filesystem::create_directory_symlink("a", folder / "b");
  std::filesystem::create_symlink("1.png", folder / "a" / "2.png");
  EXPECT_THAT(names(ImageFolder(folder)), ElementsAre("0 a/1.png", "0 a/2.png", "1 b/1.png", "1 b/2.png"));
}

TEST_F(ImageFolderTest, DecodesByContentAndUpright) {
  copy("a/1.png");
  copy("a/2.png", "exif_6.jpg");
  copy("a/3.jpg", "grey.jpg");
  const ImageFolder images(folder), as_stored(folder, {.orientation = data::Orientation::as_stored});
  Image scratch;
  const data::ImageView first = images.decode(0, scratch);
  EXPECT_THAT((std::vector{first.height, first.width, first.channels}), ElementsAre(13, 22, 3));
  EXPECT_EQ(images.decode(1, scratch).height, 18);
  EXPECT_EQ(as_stored.decode(1, scratch).height, 11);
  EXPECT_EQ(images.decode(2, scratch).channels, 1);
}

// JPEG files alone are scaled, each side rounded up; the choice is asked with the upright size.
TEST_F(ImageFolderTest, DecodesAtAScale) {
  copy("a/1.jpg", "baseline_420.jpg");  // 21 x 30 pixels
  copy("a/2.jpg", "exif_6.jpg");        // 18 x 11 upright
  copy("a/3.png");                      // 13 x 22
  const ImageFolder images(folder);
  const AnyDataset any{ImageFolder(folder)};
  const auto decoded = [&](const auto& from, int i, int denominator) {
    Image scratch;
    const auto choose = [&](int, int) { return denominator; };
    const data::ScaledImage image = from.decode_scaled(i, scratch, choose);
    return std::vector{image.height, image.width, image.denominator, image.pixels.height, image.pixels.width};
  };
  EXPECT_THAT(decoded(images, 0, 1), ElementsAre(21, 30, 1, 21, 30));
  EXPECT_THAT(decoded(images, 0, 2), ElementsAre(21, 30, 2, 11, 15));
  EXPECT_THAT(decoded(images, 0, 4), ElementsAre(21, 30, 4, 6, 8));
  EXPECT_THAT(decoded(any, 0, 8), ElementsAre(21, 30, 8, 3, 4));
  EXPECT_THAT(decoded(images, 1, 2), ElementsAre(18, 11, 2, 9, 6));
  EXPECT_THAT(decoded(any, 2, 8), ElementsAre(13, 22, 1, 13, 22));

  Image whole, same;
  static_cast<void>(images.decode(0, whole));
  static_cast<void>(images.decode_scaled(0, same, [](int, int) { return 1; }));
  EXPECT_EQ(whole.pixels, same.pixels);
}

TEST_F(ImageFolderTest, NamesWhatItCannotRead) {
  EXPECT_THAT([&] { ImageFolder images(folder); },
              ThrowsMessage<Error>(testing::AllOf(HasSubstr(folder.string()), HasSubstr("No such file"))));
  std::filesystem::create_directories(folder / "a");
  EXPECT_THAT([&] { ImageFolder images(folder); }, ThrowsMessage<Error>(HasSubstr("there is no picture in it")));
  copy("a/text.jpg", "text.jpg");
  const ImageFolder images(folder);
  Image scratch;
  EXPECT_THAT([&] { static_cast<void>(images.decode(0, scratch)); },
              ThrowsMessage<Error>(HasSubstr((folder / "a" / "text.jpg").string() + ": is no JPEG")));
  std::filesystem::remove(folder / "a" / "text.jpg");
  EXPECT_THAT([&] { static_cast<void>(images.decode(0, scratch)); },
              ThrowsMessage<Error>(HasSubstr("a/text.jpg: open failed")));
}

TEST_F(ImageFolderTest, IsAnyDatasetWithItsNamesAndLabels) {
  copy("a/1.png");
  copy("b/2.png");
  const AnyDataset classes{ImageFolder(folder)}, none{ImageFolder(folder, {.labels = false})};
  EXPECT_TRUE(classes.labelled());
  EXPECT_EQ(classes.label(1), 1);
  EXPECT_EQ(classes.name(1), "b/2.png");
  EXPECT_FALSE(classes.in_memory());
  EXPECT_FALSE(none.labelled());
}

}  // namespace
}  // namespace tessera::test
