#include "tessera/programs/pictures.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "support/test_data.hpp"
#include "tessera/io/npy.hpp"

namespace tessera::test {
namespace {

using programs::DataOptions;
using programs::open_pictures;
using programs::Pictures;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::IsSupersetOf;
using testing::ThrowsMessage;
using testing::UnorderedElementsAre;

class PicturesTest : public testing::Test {
 protected:
  PicturesTest() { std::filesystem::create_directories(folder); }
  ~PicturesTest() override { std::filesystem::remove_all(folder); }

  void copy(const std::string& to, const std::string& from = "rgb8.png") const {
    std::filesystem::create_directories((folder / to).parent_path());
    std::filesystem::copy(test_data() + "/fixtures/images/" + from, folder / to);
  }
  [[nodiscard]] DataOptions options(const std::string& path = "") const {
    DataOptions options;
    options.path = folder / path;
    return options;
  }
  void expect_refused(const DataOptions& options, const std::string& part, const std::string& other) const {
    EXPECT_THAT([&] { static_cast<void>(open_pictures(options)); },
                ThrowsMessage<Error>(AllOf(HasSubstr(part), HasSubstr(other))));
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_pictures_" + std::to_string(::getpid()));
};

[[nodiscard]] std::vector<std::string> names(const data::AnyDataset& images) {
  std::vector<std::string> names;
  for (int i = 0; i < images.size(); ++i) names.push_back(fmt::format("{} {}", images.label(i), images.name(i)));
  return names;
}

TEST_F(PicturesTest, HoldOutATenthByName) {
  for (int i = 0; i < 200; ++i) copy(fmt::format("{}/{}.png", i % 2, i));
  const Pictures all = open_pictures(options());
  EXPECT_EQ(all.train.size() + all.test.size(), 200);
  EXPECT_GT(all.test.size(), 10);
  EXPECT_LT(all.test.size(), 35);
  EXPECT_THAT(all.class_names, ElementsAre("0", "1"));
  for (int i = 100; i < 200; ++i) std::filesystem::remove(folder / fmt::format("{}/{}.png", i % 2, i));
  const Pictures half = open_pictures(options());
  EXPECT_THAT(names(all.test), IsSupersetOf(names(half.test))) << "a picture stays on its side";
  EXPECT_THAT(names(all.train), IsSupersetOf(names(half.train)));
}

TEST_F(PicturesTest, HoldOutOneOfFew) {
  copy("1.png");
  expect_refused(options(), "--data", "one picture");
  copy("2.png");
  const Pictures two = open_pictures(options());
  EXPECT_EQ(two.train.size(), 1);
  EXPECT_EQ(two.test.size(), 1);
  EXPECT_FALSE(two.train.labelled());
  EXPECT_THAT(two.remarks, ElementsAre(HasSubstr("1 pictures to train on, 1 for the monitors, no labels")));
  copy("class/3.png");
  copy("class/4.png");
  EXPECT_THAT(open_pictures(options()).remarks, ElementsAre(HasSubstr("1 class"), HasSubstr("2 pictures beside"),
                                                            HasSubstr("--no-labels leaves it out")));
}

TEST_F(PicturesTest, TakeTheSplitThatIsThere) {
  for (const char* name : {"train/a/1.png", "train/b/2.png", "test/a/3.png"}) copy(name);
  EXPECT_THAT(names(open_pictures(options()).test), ElementsAre("0 a/3.png"));
  copy("val/b/4.png");
  const Pictures pictures = open_pictures(options());
  EXPECT_THAT(names(pictures.train), ElementsAre("0 a/1.png", "1 b/2.png"));
  EXPECT_THAT(names(pictures.test), ElementsAre("1 b/4.png")) << "val/ goes first, with the classes of train/";
  copy("val/c/5.png");
  expect_refused(options(), "val/c", "none of the 2 classes");
  DataOptions other = options();
  other.test = folder / "test";
  EXPECT_THAT(names(open_pictures(other).test), ElementsAre("0 a/3.png"));
  other.labels = false;
  EXPECT_FALSE(open_pictures(other).train.labelled());
}

TEST_F(PicturesTest, AFolderOfTrainAloneIsSearchedBelowIt) {
  for (const char* name : {"train/a/1.png", "train/b/2.png"}) copy(name);
  EXPECT_THAT(open_pictures(options()).class_names, ElementsAre("a", "b"));
  copy("plane/1.png");
  EXPECT_THAT(open_pictures(options()).class_names, ElementsAre("plane", "train")) << "a class among others";
}

TEST_F(PicturesTest, MayBeLists) {
  for (const char* name : {"1.png", "2.png", "3.png"}) copy(name);
  std::ofstream(folder / "train.txt") << "1.png\tcat\n2.png\tdog\n";
  std::ofstream(folder / "test.txt") << "3.png\tdog\n";
  DataOptions lists = options("train.txt");
  lists.test = folder / "test.txt";
  const Pictures pictures = open_pictures(lists);
  EXPECT_THAT(names(pictures.train), ElementsAre("0 1.png", "1 2.png"));
  EXPECT_THAT(names(pictures.test), ElementsAre("1 3.png"));
  expect_refused(options("missing.txt"), "--data", "missing.txt");
}

TEST_F(PicturesTest, MayBeArraysInMemory) {
  const xt::xtensor<std::uint8_t, 4> images = xt::zeros<std::uint8_t>({5, 6, 7, 3});
  const xt::xtensor<std::int64_t, 1> labels{0, 1, 2, 1, 0};
  for (const char* split : {"train", "test"}) {
    io::write_npy(folder / (std::string(split) + "_images.npy"), images);
    io::write_npy(folder / (std::string(split) + "_labels.npy"), labels);
  }
  DataOptions arrays = options();
  const Pictures pictures = open_pictures(arrays);
  EXPECT_TRUE(pictures.train.in_memory());
  EXPECT_EQ(pictures.test.label(2), 2);
  EXPECT_EQ(programs::sizes_of(pictures.train).shorter_side, 6);
  EXPECT_EQ(programs::sizes_of(pictures.train).channels, 3);
  arrays.labels = false;
  EXPECT_FALSE(open_pictures(arrays).train.labelled());
  io::write_npy(folder / "test_images.npy", xt::xtensor<std::uint8_t, 4>(xt::zeros<std::uint8_t>({5, 6, 8, 3})));
  expect_refused(options(), "6 x 7", "6 x 8");
}

// Damaged pictures and the cache concern both splits.
TEST_F(PicturesTest, ShareWhatIsDamaged) {
  copy("train/1.png");
  copy("train/2.png", "truncated.png");
  copy("val/3.png", "text.jpg");
  copy("val/4.png");
  DataOptions half = options();
  half.max_damaged = 0.5;
  half.cache = 0.001;
  const Pictures pictures = open_pictures(half);
  data::Image scratch;
  static_cast<void>(pictures.train.decode(1, scratch));
  static_cast<void>(pictures.test.decode(0, scratch));
  EXPECT_THAT(pictures.damaged->names(), UnorderedElementsAre("2.png", "3.png"));
  half.max_damaged = 0.25;
  const Pictures few = open_pictures(half);
  static_cast<void>(few.train.decode(1, scratch));
  EXPECT_THAT([&] { static_cast<void>(few.test.decode(0, scratch)); },
              ThrowsMessage<Error>(HasSubstr("2 of 4 pictures")));
  half.cache = 1e9;
  expect_refused(half, "--cache", "free");
  half.cache = -1;
  expect_refused(half, "--cache", "-1");
}

TEST_F(PicturesTest, AreTakenAsPartsOrAsAWhole) {
  for (const char* name : {"train/a/1.png", "train/b/2.png", "val/a/3.png"}) copy(name);
  const auto open = [&](const char* part) {
    return names(programs::open_part(options(), part, std::make_shared<data::DamagedPictures>(1)));
  };
  EXPECT_THAT(open("train"), ElementsAre("0 a/1.png", "1 b/2.png"));
  EXPECT_THAT(open("test"), ElementsAre("0 a/3.png"));
  EXPECT_EQ(open("").size(), 3u);
  EXPECT_THROW(open("t10k"), Error);
}

}  // namespace
}  // namespace tessera::test
