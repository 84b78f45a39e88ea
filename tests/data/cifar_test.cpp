#include "tessera/data/cifar.hpp"

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

using data::Cifar;
using data::CifarLabels;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

// The value of channel c of pixel `at` of an image in these tests.
std::uint8_t value_of(int image, int c, int at) {
  return static_cast<std::uint8_t>(image * 31 + c * 101 + at * 7);
}

std::string record(const std::string& labels, int image) {
  std::string bytes = labels;
  for (int c = 0; c < 3; ++c)
    for (int at = 0; at < 1024; ++at) bytes += static_cast<char>(value_of(image, c, at));
  return bytes;
}

void expect_image(const Cifar& images, int i, int number) {
  data::Image scratch;
  const data::ImageView image = images.decode(i, scratch);
  ASSERT_TRUE(image.height == 32 && image.width == 32 && image.channels == 3);
  for (int at = 0; at < 1024; ++at)
    for (int c = 0; c < 3; ++c) ASSERT_EQ(image.pixels[at * 3 + c], value_of(number, c, at)) << at << ", " << c;
}

class CifarTest : public testing::Test {
 protected:
  ~CifarTest() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories((folder / name).parent_path());
    std::ofstream(folder / name, std::ios::binary) << bytes;
  }
  // Five files of 1, 2, 3, 4 and 5 records, in order, and two test images.
  void write_10(const std::string& within = "") const {
    int image = 0;
    for (int file = 1; file <= 5; ++file) {
      std::string bytes;
      for (int i = 0; i < file; ++i, ++image) bytes += record(std::string(1, static_cast<char>(image % 10)), image);
      write(within + "data_batch_" + std::to_string(file) + ".bin", bytes);
    }
    write(within + "test_batch.bin", record("\x07", 90) + record("\x03", 91));
  }
  void write_100(const std::string& within = "") const {
    write(within + "train.bin", record("\x13\x63", 0) + record(std::string("\0\x05", 2), 1));
    write(within + "test.bin", record("\x02\x03", 2));
  }
  void expect_refused(const std::string& split, const std::string& first, const std::string& second) const {
    EXPECT_THAT([&] { Cifar(folder, split); },
                ThrowsMessage<Error>(AllOf(HasSubstr(folder.string()), HasSubstr(first), HasSubstr(second))));
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_cifar_" + std::to_string(::getpid()));
};

TEST_F(CifarTest, ReadsTheFiveFilesOfCifar10) {
  write_10();
  ASSERT_TRUE(Cifar::is_in(folder));
  const Cifar train(folder, "train"), test(folder, "test");
  ASSERT_EQ(train.size(), 15);
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(train.label(i), i % 10);
    expect_image(train, i, i);
  }
  ASSERT_EQ(test.size(), 2);
  EXPECT_EQ(test.label(0), 7);
  expect_image(test, 1, 91);
  EXPECT_THAT(train.classes(), IsEmpty());
}

TEST_F(CifarTest, ReadsMoreRecordsThanItTakesAtOnce) {
  write_100();
  std::string bytes;
  for (int i = 0; i < 300; ++i) bytes += record(std::string(1, '\0') + static_cast<char>(i % 100), i);
  write("train.bin", bytes);
  const Cifar train(folder, "train");
  ASSERT_EQ(train.size(), 300);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(train.label(i), i % 100);
  for (const int i : {0, 127, 128, 255, 256, 299}) expect_image(train, i, i);
}

TEST_F(CifarTest, ReadsFineOrCoarseLabelsOfCifar100) {
  write_100("cifar-100-binary/");
  ASSERT_TRUE(Cifar::is_in(folder));
  const Cifar fine(folder, "train"), coarse(folder, "train", CifarLabels::coarse);
  EXPECT_EQ(fine.label(0), 99);
  EXPECT_EQ(fine.label(1), 5);
  EXPECT_EQ(coarse.label(0), 19);
  EXPECT_EQ(coarse.label(1), 0);
  expect_image(coarse, 1, 1);
}

TEST_F(CifarTest, NamesTheClasses) {
  write_10("cifar-10-batches-bin/");
  write("cifar-10-batches-bin/batches.meta.txt", "a\nb\r\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
  EXPECT_THAT(Cifar(folder, "test").classes(), ElementsAre("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"));
  write("cifar-10-batches-bin/batches.meta.txt", "a\nb\n");
  expect_refused("test", "batches.meta.txt", "2 names of classes, not 10");
}

TEST_F(CifarTest, IsADataSetInMemory) {
  write_100();
  const data::AnyDataset images{Cifar(folder, "train")};
  EXPECT_TRUE(images.labelled());
  EXPECT_TRUE(images.in_memory());
  EXPECT_EQ(images.label(0), 99);
}

TEST_F(CifarTest, RefusesWhatIsNotThere) {
  EXPECT_FALSE(Cifar::is_in(folder));
  expect_refused("train", "holds no file of CIFAR-10", "train.bin");
  write_10();
  expect_refused("t10k", "", "'train' and 'test', but not 't10k'");
  EXPECT_THAT([&] { Cifar(folder, "train", CifarLabels::coarse); },
              ThrowsMessage<Error>(HasSubstr("CIFAR-10, which has no coarse labels")));
  std::filesystem::remove(folder / "data_batch_4.bin");
  expect_refused("train", "data_batch_4.bin", "there is no such file");
  EXPECT_EQ(Cifar(folder, "test").size(), 2);
  write_100();
  expect_refused("test", "CIFAR-10 and of CIFAR-100", "name the folder");
}

TEST_F(CifarTest, NamesTheWrongRecord) {
  write_10();
  write("data_batch_2.bin", record("\x01", 0) + record("\x0A", 0));
  expect_refused("train", "data_batch_2.bin: record 1 has the label 10", "0 to 9");
  std::filesystem::remove_all(folder);
  write_100();
  write("train.bin", record(std::string("\0\x64", 2), 0));
  expect_refused("train", "record 0 has the label 100 in byte 1", "0 to 99");
  write("train.bin", record("\x14\x01", 0));
  expect_refused("train", "record 0 has the label 20 in byte 0", "0 to 19");
}

TEST_F(CifarTest, RefusesEveryOtherSize) {
  write_10();
  const std::string whole = record("\x07", 90) + record("\x03", 91);
  for (std::size_t size = 0; size < whole.size(); size += size % 3073 < 4 || size % 3073 > 3068 ? 1 : 191) {
    write("test_batch.bin", whole.substr(0, size));
    if (size > 0 && size % 3073 == 0)
      EXPECT_EQ(Cifar(folder, "test").size(), 1);
    else
      expect_refused("test", "test_batch.bin: has " + std::to_string(size) + " bytes", "records of 3073 bytes");
  }
}

// A file of any bytes is a data set or an Error.
TEST_F(CifarTest, SurvivesAnyBytes) {
  Random random(3, Purpose::test, 0, 0);
  write_100();
  const std::string good = record("\x02\x03", 2) + record("\x12\x44", 3);
  int refused = 0;
  for (int i = 0; i < 100; ++i) {
    std::string bytes = good;
    for (int k = 0; k < 4; ++k) {
      const std::uint32_t near = random.below(2) * 3074,
                          at = random.below(2) == 0 ? near + random.below(2) : random.below(6148);
      bytes[at] = static_cast<char>(random.below(256));
    }
    write("test.bin", bytes);
    write("fine_label_names.txt", bytes.substr(0, random.below(300)));
    try {
      EXPECT_EQ(Cifar(folder, "test").size(), 2);
    } catch (const Error& error) {
      ++refused;
      EXPECT_THAT(error.what(), HasSubstr(folder.string()));
    }
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace tessera::test
