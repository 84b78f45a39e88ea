#include "tessera/data/loader.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tessera/data/idx.hpp"

namespace tessera::test {
namespace {

data::IdxDataset noise(int count) {
  Random random(5, Purpose::test, 0, 0);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count) * 144), labels(static_cast<std::size_t>(count));
  for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  for (auto& label : labels) label = static_cast<std::uint8_t>(random.below(10));
  return {12, 12, std::move(pixels), std::move(labels)};
}

data::LoaderOptions options(int threads) {
  data::LoaderOptions options;
  options.batch_size = 10;
  options.image_size = 8;
  options.threads = threads;
  options.seed = 9;
  return options;
}

// The first `count` batches, one after the other.
std::vector<float> stream(const data::IdxDataset& images, const data::LoaderOptions& options, int count) {
  data::TwoViewLoader loader(images, options);
  std::vector<float> all;
  for (int i = 0; i < count; ++i) {
    const data::Batch& batch = loader.next();
    all.insert(all.end(), batch.images.begin(), batch.images.end());
  }
  return all;
}

TEST(Loader, DoesNotDependOnTheNumberOfThreads) {
  const auto images = noise(47);
  const auto one = stream(images, options(1), 9);
  EXPECT_EQ(one, stream(images, options(2), 9));
  EXPECT_EQ(one, stream(images, options(4), 9));
}

TEST(Loader, ContinuesInTheMiddleOfAnEpoch) {
  const auto images = noise(47);
  const auto whole = stream(images, options(2), 9);
  auto later = options(3);
  later.epoch = 1;
  later.iteration = 2;  // 4 batches an epoch: the seventh
  const auto rest = stream(images, later, 3);
  EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.end() - static_cast<std::ptrdiff_t>(rest.size())));
}

TEST(Loader, OrdersArePermutationsAndRanksShareThem) {
  auto all = options(1);
  auto order = data::epoch_order(47, all, 3);
  EXPECT_NE(order, data::epoch_order(47, all, 4));
  std::vector<int> seen(47);
  all.ranks = 4;
  for (all.rank = 0; all.rank < 4; ++all.rank)
    for (const int sample : data::epoch_order(47, all, 3)) ++seen[static_cast<std::size_t>(sample)];
  EXPECT_EQ(seen[static_cast<std::size_t>(order[0])], 2);  // 47 are padded to 48 with the first
  seen[static_cast<std::size_t>(order[0])] = 1;
  EXPECT_EQ(seen, std::vector<int>(47, 1));
}

TEST(Loader, StopsAtAnyTime) {
  const auto images = noise(47);
  for (int batches = 0; batches < 6; ++batches) stream(images, options(3), batches);
}

TEST(Loader, SaysWhenABatchIsLargerThanTheData) {
  const auto images = noise(5);
  EXPECT_THAT([&] { data::TwoViewLoader loader(images, options(1)); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("--batch-size")));
}

class Idx : public testing::Test {
 protected:
  ~Idx() override { std::filesystem::remove_all(folder); }
  void write(const std::string& images, const std::string& labels) const {
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "train-images-idx3-ubyte", std::ios::binary) << images;
    std::ofstream(folder / "train-labels-idx1-ubyte", std::ios::binary) << labels;
  }
  void expect_refused(const std::string& images, const std::string& labels, const std::string& sentence) const {
    write(images, labels);
    EXPECT_THAT([&] { data::IdxDataset set(folder, "train"); },
                testing::ThrowsMessage<Error>(testing::HasSubstr(sentence)));
  }
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_idx_" + std::to_string(::getpid()));
  const std::string good_images{
      "\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x03"
      "abcdef",
      22};
  const std::string good_labels{"\0\0\x08\x01\0\0\0\x02\x04\x05", 10};
};

TEST_F(Idx, ReadsPlainFiles) {
  write(good_images, good_labels);
  const data::IdxDataset set(folder, "train");
  EXPECT_EQ(set.size(), 2);
  EXPECT_EQ(set.width(), 3);
  EXPECT_EQ(set.image(1).pixels[0], 'd');
  EXPECT_EQ(set.label(1), 5);
}

TEST_F(Idx, RefusesDamagedFiles) {
  EXPECT_THROW(data::IdxDataset(folder / "none", "train"), Error);
  for (std::size_t length = 0; length < good_images.size(); ++length) {
    write(good_images.substr(0, length), good_labels);
    EXPECT_THROW(data::IdxDataset(folder, "train"), Error) << length;
  }
  expect_refused(good_images + "x", good_labels, "goes on after");
  expect_refused(good_labels, good_labels, "starts with 0x00000801");
  std::string many = good_labels;
  many[7] = 3;
  expect_refused(good_images, many + "\6", "holds 3 labels");
  std::string none = good_images;
  none[7] = 0;
  expect_refused(none, good_labels, "dimension 0 has the size 0");
  std::string huge = good_images;
  huge[8] = '\x7f';
  expect_refused(huge, good_labels, "states images of");
  expect_refused("\x1f\x8b damaged", good_labels, "");
}

TEST_F(Idx, ReadsFashionMnist) {
  const data::IdxDataset set("/usr/share/datasets/fashion-mnist", "t10k");
  EXPECT_EQ(set.size(), 10000);
  EXPECT_EQ(set.height(), 28);
}

}  // namespace
}  // namespace tessera::test
