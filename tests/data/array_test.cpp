#include "tessera/data/array.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tessera/core/random.hpp"
#include "tessera/data/any_dataset.hpp"

namespace tessera::test {
namespace {

using data::ArrayDataset;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

using Pixels = xt::xtensor<std::uint8_t, 4>;

// Values 0, 1, ..., modulo 256.
template <class Array>
Array counted(const typename Array::shape_type& shape) {
  auto array = Array::from_shape(shape);
  for (std::size_t i = 0; i < array.size(); ++i) array.data()[i] = static_cast<std::uint8_t>(i);
  return array;
}

template <class Array>
Array labels_of(std::size_t count) {
  return counted<Array>({count});
}

class ArrayDatasetTest : public testing::Test {
 protected:
  ArrayDatasetTest() { std::filesystem::create_directories(folder); }
  ~ArrayDatasetTest() override { std::filesystem::remove_all(folder); }

  void expect_refused(const std::string& name, const std::string& sentence) const {
    EXPECT_THAT([&] { ArrayDataset(folder, "train"); },
                ThrowsMessage<Error>(AllOf(HasSubstr((folder / name).string()), HasSubstr(sentence))));
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_array_" + std::to_string(::getpid()));
  const std::filesystem::path images = folder / "train_images.npy", labels = folder / "train_labels.npy";
};

void expect_counted(const ArrayDataset& images, int height, int width, int channels) {
  data::Image scratch;
  for (int i = 0; i < images.size(); ++i) {
    const data::ImageView image = images.decode(i, scratch);
    ASSERT_TRUE(image.height == height && image.width == width && image.channels == channels);
    for (std::size_t at = 0; at < image.size(); ++at)
      ASSERT_EQ(image.pixels[at], static_cast<std::uint8_t>(static_cast<std::size_t>(i) * image.size() + at));
  }
}

TEST(ArrayDatasetOfArrays, TakesThemWithoutACopy) {
  auto array = counted<Pixels>({7, 4, 3, 5});
  const std::uint8_t* const pixels = array.data();
  const ArrayDataset images(std::move(array));
  EXPECT_EQ(images.size(), 7);
  EXPECT_FALSE(images.labelled());
  EXPECT_EQ(images.label(3), 0);
  expect_counted(images, 4, 3, 5);
  data::Image scratch;
  EXPECT_EQ(images.decode(0, scratch).pixels, pixels);
  const ArrayDataset grey(counted<xt::xtensor<std::uint8_t, 3>>({2, 4, 3}), {5, 0});
  EXPECT_TRUE(grey.labelled());
  EXPECT_EQ(grey.label(0), 5);
  expect_counted(grey, 4, 3, 1);
  const xt::xtensor<int, 1> labels{3, 1};
  EXPECT_EQ(ArrayDataset(counted<Pixels>({2, 1, 1, 1}), labels).label(1), 1);
}

TEST_F(ArrayDatasetTest, ReadsAFolder) {
  EXPECT_FALSE(ArrayDataset::is_in(folder));
  EXPECT_THAT([&] { ArrayDataset(folder, "train"); }, ThrowsMessage<Error>(HasSubstr("train_images.npy")));
  io::write_npy(images, counted<Pixels>({3, 5, 4, 2}));
  EXPECT_TRUE(ArrayDataset::is_in(folder));
  EXPECT_FALSE(ArrayDataset(folder, "train").labelled());
  io::write_npy(labels, labels_of<xt::xtensor<std::int64_t, 1>>(3));
  io::write_npy(folder / "test_images.npy", counted<xt::xtensor<std::uint8_t, 3>>({2, 6, 6}));
  const ArrayDataset train(folder, "train"), test(folder, "test");
  EXPECT_EQ(train.label(2), 2);
  expect_counted(train, 5, 4, 2);
  EXPECT_FALSE(test.labelled());
  expect_counted(test, 6, 6, 1);
  const data::AnyDataset any(ArrayDataset::from_files(images, labels));
  EXPECT_TRUE(any.labelled() && any.in_memory());
  EXPECT_FALSE(data::AnyDataset(ArrayDataset::from_files(images)).labelled());
}

TEST_F(ArrayDatasetTest, RefusesOtherArrays) {
  const auto refuse = [&](const auto& array, const std::string& sentence) {
    io::write_npy(images, array);
    expect_refused("train_images.npy", sentence);
  };
  refuse(xt::xtensor<float, 4>::from_shape({1, 2, 2, 1}), "'|u1'");
  refuse(counted<xt::xtensor<std::uint8_t, 2>>({2, 9}), "has the shape (2, 9); images have 4 dimensions");
  refuse(counted<xt::xtensor<std::uint8_t, 5>>({1, 1, 2, 9, 1}), "images have 4 dimensions");
  refuse(counted<Pixels>({2, 3, 32, 32}), "at most 16");
  refuse(counted<Pixels>({0, 2, 2, 1}), "there must be an image");
  refuse(counted<Pixels>({2, 0, 2, 1}), "each must have pixels");
  EXPECT_THAT(
      [] {
        ArrayDataset(counted<Pixels>({1, 2, 2, 17}));
      },
      ThrowsMessage<Error>(HasSubstr("the array of images: has the shape (1, 2, 2, 17)")));
}

TEST_F(ArrayDatasetTest, RefusesOtherLabels) {
  io::write_npy(images, counted<Pixels>({3, 2, 2, 1}));
  const auto refuse = [&](const auto& array, const std::string& sentence) {
    io::write_npy(labels, array);
    expect_refused("train_labels.npy", sentence);
  };
  refuse(labels_of<xt::xtensor<std::uint8_t, 1>>(2), "holds 2 labels for 3 images");
  refuse(labels_of<xt::xtensor<std::uint8_t, 1>>(0), "holds no label");
  refuse(xt::xtensor<int, 1>{0, -1, 2}, "number 1 is -1; labels are 0, 1, ...");
  refuse(xt::xtensor<std::int64_t, 1>{0, 1, std::int64_t{1} << 40}, "holds the value 1099511627776");
  refuse(xt::xtensor<int, 2>{{0, 1, 2}}, "has the shape (1, 3); labels have one dimension");
  refuse(xt::xtensor<float, 1>{0, 1, 2}, "integers");
  EXPECT_THAT(
      [] {
        ArrayDataset(counted<Pixels>({2, 1, 1, 1}), std::vector<long>{1, -7});
      },
      ThrowsMessage<Error>(HasSubstr("the array of labels: number 1 is -7")));
}

// Cut files are refused; files with wrong bytes are refused or a data set.
TEST_F(ArrayDatasetTest, SurvivesAnyBytes) {
  io::write_npy(images, counted<Pixels>({3, 5, 4, 2}));
  io::write_npy(labels, labels_of<xt::xtensor<std::int64_t, 1>>(3));
  const auto write = [](const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  };
  Random random(3, Purpose::test, 0, 0);
  for (const std::filesystem::path& path : {images, labels}) {
    const std::string good = io::read_file(path, 1000);
    for (std::size_t size = 0; size < good.size(); ++size) {
      write(path, good.substr(0, size));
      expect_refused(path.filename(), "");
    }
    for (int i = 0; i < 300; ++i) {
      std::string bytes = good;
      for (std::uint32_t k = 0; k <= random.below(3); ++k)
        bytes[random.below(static_cast<std::uint32_t>(bytes.size()))] = static_cast<char>(random.below(256));
      write(path, bytes);
      try {
        const ArrayDataset read(folder, "train");
        data::Image scratch;
        EXPECT_EQ(static_cast<std::size_t>(read.size()) * read.decode(0, scratch).size(), 120u);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr(path.string()));
      }
    }
    write(path, good);
  }
}

}  // namespace
}  // namespace tessera::test
