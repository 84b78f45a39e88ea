#include "tessera/data/tolerant.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tessera/data/any_dataset.hpp"
#include "tessera/data/cached.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/io/file.hpp"

namespace tessera::test {
namespace {

using data::DamagedPictures;
using data::Image;
using data::ImageView;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Pictures of one pixel, which is their number. Those that are named are damaged. Counts what is decoded.
struct Numbered {
  std::vector<int> labels, damaged;
  std::shared_ptr<std::atomic<int>> decodes = std::make_shared<std::atomic<int>>(0);

  [[nodiscard]] int size() const { return static_cast<int>(labels.size()); }
  [[nodiscard]] bool labelled() const { return true; }
  [[nodiscard]] int label(int i) const { return labels[static_cast<std::size_t>(i)]; }
  [[nodiscard]] std::string name(int i) const { return std::to_string(i); }
  [[nodiscard]] ImageView decode(int i, Image& scratch) const {
    ++*decodes;
    if (std::find(damaged.begin(), damaged.end(), i) != damaged.end()) fail("{}: is damaged", i);
    scratch.resize(1, 1, 1);
    scratch.pixels[0] = static_cast<std::uint8_t>(i);
    return scratch;
  }
};

template <class Images>
[[nodiscard]] std::vector<int> numbers(const Images& images) {
  std::vector<int> numbers;
  Image scratch;
  for (int i = 0; i < images.size(); ++i) numbers.push_back(images.decode(i, scratch).pixels[0]);
  return numbers;
}

TEST(Tolerant, ReplacesByTheNextOfTheSameLabel) {
  const auto damaged = std::make_shared<DamagedPictures>(1);
  const data::Tolerant images(Numbered{{0, 1, 0, 1, 1, 2}, {0, 3, 4}}, damaged);
  EXPECT_THAT(numbers(images), ElementsAre(2, 1, 2, 1, 1, 5));
  EXPECT_EQ(damaged->count(), 3);
  EXPECT_THAT(numbers(images), ElementsAre(2, 1, 2, 1, 1, 5)) << "each time the same";
  EXPECT_THAT(damaged->names(), ElementsAre("0", "3", "4")) << "each is counted once";
}

TEST(Tolerant, ReplacesByAnotherWhereALabelHasNoneLeft) {
  const data::Tolerant images(Numbered{{0, 1, 1}, {0}}, std::make_shared<DamagedPictures>(1));
  EXPECT_THAT(numbers(images), ElementsAre(1, 1, 2));
}

TEST(Tolerant, EndsWithTooMany) {
  const auto few = std::make_shared<DamagedPictures>(0.25, "--");
  const data::Tolerant images(Numbered{{0, 0, 0, 0}, {1, 3}}, few);
  Image scratch;
  EXPECT_EQ(images.decode(1, scratch).pixels[0], 2);
  EXPECT_THAT([&] { static_cast<void>(images.decode(3, scratch)); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr("2 of 4 pictures"), HasSubstr("--max-damaged 0.25"), HasSubstr("3: is damaged"))));
  const data::Tolerant none(Numbered{{0, 0}, {0, 1}}, std::make_shared<DamagedPictures>(1));
  EXPECT_THAT([&] { static_cast<void>(none.decode(0, scratch)); }, ThrowsMessage<Error>(HasSubstr("none of 2")));
  EXPECT_THAT([] { DamagedPictures(1.5, "--"); }, ThrowsMessage<Error>(HasSubstr("--max-damaged")));
}

TEST(Tolerant, NamesDamagedPicturesInAFile) {
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("tessera_damaged_" + std::to_string(::getpid()));
  const auto damaged = std::make_shared<DamagedPictures>(1);
  const data::Tolerant images(Numbered{{0, 0, 0, 0}, {1, 3}}, damaged);
  Image scratch;
  static_cast<void>(images.decode(1, scratch));
  damaged->write_to(file);
  EXPECT_EQ(io::read_file(file, 100), "1\t1: is damaged\n");
  static_cast<void>(images.decode(3, scratch));
  EXPECT_EQ(io::read_file(file, 100), "1\t1: is damaged\n3\t3: is damaged\n");
  std::filesystem::remove(file);
}

TEST(Cached, DecodesOnceWhileThereIsRoom) {
  Numbered numbered{{0, 0, 0, 0}, {}};
  const auto decodes = numbered.decodes;
  constexpr std::int64_t each = 1 + sizeof(Image);
  const data::Cached images(data::AnyDataset(std::move(numbered)), std::make_shared<data::CacheRoom>(3 * each));
  EXPECT_THAT(numbers(images), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(*decodes, 4);
  EXPECT_THAT(numbers(images), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(*decodes, 5) << "the last one has no room";
  EXPECT_EQ(images.name(2), "2");
  EXPECT_TRUE(images.labelled());
}

TEST(Cached, MayBeAskedByManyThreads) {
  Numbered numbered{std::vector<int>(200), {}};
  const data::Cached images(data::AnyDataset(std::move(numbered)), std::make_shared<data::CacheRoom>(1 << 20));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      Image scratch;
      for (int round = 0; round < 3; ++round)
        for (int i = 0; i < 200; ++i) wrong += images.decode(i, scratch).pixels[0] != i;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Spread, IsEven) {
  const Numbered ten{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {}};
  EXPECT_THAT(numbers(data::Spread(ten, 3)), ElementsAre(0, 3, 6));
  EXPECT_THAT(numbers(data::Spread(ten, 4)), ElementsAre(0, 2, 5, 7));
  EXPECT_EQ(data::Spread(ten, 4).label(3), 7);
  EXPECT_EQ(data::Spread(ten, -1).size(), 10);
  EXPECT_EQ(data::Spread(ten, 11).size(), 10);
}

}  // namespace
}  // namespace tessera::test
