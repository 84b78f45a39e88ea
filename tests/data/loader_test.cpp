#include "tessera/data/loader.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <thread>

#include "support/image.hpp"
#include "support/noise.hpp"
#include "tessera/data/any_dataset.hpp"
#include "tessera/data/idx.hpp"

namespace tessera::test {
namespace {

template <int size_, int channels_ = 1>
struct Square {
  static constexpr int size = size_, channels = channels_, values = channels * size * size;
};
using TwoViews = data::Reads<data::Crops<2, Square<8>>>;

data::LoaderOptions options(int threads) {
  data::LoaderOptions options;
  options.batch = 10;
  const auto views = data::moco_v3_views(0.08);
  options.views.assign(views.begin(), views.end());
  options.threads = threads;
  options.seed = 9;
  return options;
}

// The first `count` batches, one after the other.
std::vector<float> stream(const data::IdxDataset& images, const data::LoaderOptions& options, int count) {
  data::Loader loader(images, TwoViews{}, options);
  std::vector<float> all;
  for (int i = 0; i < count; ++i) {
    const auto& batch = loader.next();
    all.insert(all.end(), batch.crops[0].begin(), batch.crops[0].end());
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

TEST(Loader, OrdersArePermutations) {
  auto order = data::epoch_order(47, 5, 3);
  EXPECT_NE(order, data::epoch_order(47, 5, 4));
  EXPECT_NE(order, data::epoch_order(47, 6, 3));
  std::sort(order.begin(), order.end());
  for (int i = 0; i < 47; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

// Batches of 12 images in three epochs of 47: each holds the same views however many ranks share it.
TEST(Loader, BatchesDoNotDependOnTheNumberOfRanks) {
  const auto images = noise(47);
  auto alone = options(2);
  alone.batch = 12;
  for (const int ranks : {2, 3, 12}) {
    std::vector<std::unique_ptr<data::Loader<data::IdxDataset, TwoViews>>> loaders;
    for (int rank = 0; rank < ranks; ++rank) {
      auto part = alone;
      part.batch = 12 / ranks;
      part.rank = rank;
      part.ranks = ranks;
      loaders.push_back(std::make_unique<data::Loader<data::IdxDataset, TwoViews>>(images, TwoViews{}, part));
      ASSERT_EQ(loaders.back()->iterations_per_epoch(), 3);
    }
    data::Loader reference(images, TwoViews{}, alone);
    for (int i = 0; i < 9; ++i) {
      const auto& expected = reference.next();
      for (int rank = 0; rank < ranks; ++rank) {
        const auto& part = loaders[static_cast<std::size_t>(rank)]->next();
        const auto count = 12 / ranks, first = rank * count;
        EXPECT_TRUE(std::equal(part.labels.begin(), part.labels.end(), expected.labels.begin() + first));
        for (int view = 0; view < 2; ++view)
          EXPECT_TRUE(std::equal(part.crops[0].begin() + view * count * 64,
                                 part.crops[0].begin() + (view + 1) * count * 64,
                                 expected.crops[0].begin() + (view * 12 + first) * 64))
              << "batch " << i << ", rank " << rank << " of " << ranks << ", view " << view;
      }
    }
  }
}

TEST(Loader, StopsAtAnyTime) {
  const auto images = noise(47);
  for (int batches = 0; batches < 6; ++batches) stream(images, options(3), batches);
}

data::ImageView whole_image(const data::IdxDataset& images, int i) {
  data::Image unused;
  return images.decode(i, unused);
}

// Images from a function, for faults and delays.
template <class Function>
struct FunctionDataset {
  int count;
  Function function;

  [[nodiscard]] int size() const { return count; }
  [[nodiscard]] data::ImageView decode(int i, data::Image&) const { return function(i); }
  [[nodiscard]] int label(int i) const { return i % 10; }
};

// Batches of every size and waiting room, epochs of one batch among them, against views that are made one by one.
TEST(Loader, BatchesHoldTheViewsOfTheEpochsOrder) {
  const auto images = noise(19);
  data::AugmentScratch scratch;
  for (const int batch_size : {1, 3, 8, 9, 19})
    for (const int threads : {1, 3})
      for (const int prefetch : {1, 4}) {
        auto some = options(threads);
        some.batch = batch_size;
        some.prefetch = prefetch;
        data::Loader loader(images, TwoViews{}, some);
        const int per_epoch = loader.iterations_per_epoch();
        ASSERT_EQ(per_epoch, 19 / batch_size);
        for (int i = 0; i < 2 * per_epoch + 1; ++i) {
          const auto& batch = loader.next();
          ASSERT_EQ(batch.epoch, i / per_epoch);
          ASSERT_EQ(batch.iteration, i % per_epoch);
          const auto order = data::epoch_order(19, some.seed, batch.epoch);
          for (int k = 0; k < batch_size; ++k) {
            const int sample = order[static_cast<std::size_t>(batch.iteration * batch_size + k)];
            ASSERT_EQ(batch.samples[static_cast<std::size_t>(k)], sample);
            ASSERT_EQ(batch.labels[static_cast<std::size_t>(k)], images.label(sample));
            for (int view = 0; view < 2; ++view) {
              Random random(some.seed, Purpose::view, static_cast<std::uint32_t>(2 * batch.epoch + view),
                            static_cast<std::uint32_t>(sample));
              std::vector<float> values(64);
              const auto& augmentation = some.views[static_cast<std::size_t>(view)];
              to_float(random_view(whole_image(images, sample), augmentation, 8, random, scratch), 1,
                       some.normalization, values.data());
              ASSERT_TRUE(std::equal(values.begin(), values.end(),
                                     batch.crops[0].begin() + (view * batch_size + k) * std::ptrdiff_t{64}));
            }
          }
        }
      }
}

// Two groups of crops, five augmentations, and labels: crop c of an image is drawn from the random numbers of crop c of
// all five, whichever group it is in.
TEST(Loader, SeveralGroupsOfCropsHoldTheirViews) {
  using Groups = data::Reads<data::Crops<2, Square<8>>, data::Labels, data::Crops<3, Square<6, 3>>>;
  static_assert(Groups::labels && Groups::groups == 2 && Groups::crops == 5);
  const auto images = noise(19);
  auto some = options(3);
  some.batch = 4;
  some.views.clear();
  for (const double crop_min : {0.1, 0.2, 0.3, 0.4, 0.5})
    some.views.push_back(data::ViewAugmentation::crop_and_flip(crop_min));
  some.views[3].solarize = 1;
  data::Loader loader(images, Groups{}, some);
  data::AugmentScratch scratch;
  for (int i = 0; i < 9; ++i) {
    const auto& made = loader.next();
    const auto batch = made.batch();
    ASSERT_EQ(batch.images(), 4);
    ASSERT_EQ(std::get<0>(batch.crops).rows, 2 * 4);
    ASSERT_EQ(std::get<1>(batch.crops).rows, 3 * 4);
    for (int k = 0; k < 4; ++k) {
      const int sample = made.samples[static_cast<std::size_t>(k)];
      ASSERT_EQ(batch.labels[k], images.label(sample));
      for (int crop = 0; crop < 5; ++crop) {
        Random random(some.seed, Purpose::view, static_cast<std::uint32_t>(5 * made.epoch + crop),
                      static_cast<std::uint32_t>(sample));
        const bool large = crop < 2;
        const int size = large ? 8 : 6, channels = large ? 1 : 3, row = (large ? crop : crop - 2) * 4 + k;
        std::vector<float> values(static_cast<std::size_t>(size * size * channels));
        to_float(
            random_view(whole_image(images, sample), some.views[static_cast<std::size_t>(crop)], size, random, scratch),
            channels, some.normalization, values.data());
        const float* const group = large ? std::get<0>(batch.crops).data : std::get<1>(batch.crops).data;
        ASSERT_TRUE(std::equal(values.begin(), values.end(), group + row * static_cast<index>(values.size())))
            << "batch " << i << ", image " << k << ", crop " << crop;
      }
    }
  }
}

TEST(Loader, LeavesLabelsOutThatNobodyReads) {
  const auto images = noise(19);
  data::Loader loader(images, TwoViews{}, options(1));
  const auto& made = loader.next();
  EXPECT_EQ(made.batch().labels, nullptr);
  EXPECT_EQ(made.labels[0], images.label(made.samples[0]));
}

struct Labelled {
  std::vector<int> labels;
  [[nodiscard]] int size() const { return static_cast<int>(labels.size()); }
  [[nodiscard]] data::ImageView decode(int, data::Image& scratch) const {
    scratch.resize(12, 12, 1);
    return scratch;
  }
  [[nodiscard]] int label(int i) const { return labels[static_cast<std::size_t>(i)]; }
};

// Before the first batch, not as a loss that is not finite when the image comes.
TEST(Loader, NamesAnImageWhoseLabelIsNoClass) {
  using Ten = data::Reads<data::Crops<1, Square<8>>, data::ClassLabels<10>>;
  const auto refusal = [](int label) {
    Labelled images{std::vector<int>(40, 9)};
    images.labels[30] = label;
    data::LoaderOptions loading;
    loading.batch = 4;
    try {
      const data::Loader loader(images, Ten{}, loading);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal(0), "");
  EXPECT_EQ(refusal(12),
            "image 30 of the data set has the label 12, but the objective has 10 classes, 0 to 9: give the objective "
            "13 classes, or the data set other labels");
  EXPECT_THAT(refusal(-1), testing::HasSubstr("the label -1, but the objective has 10 classes, 0 to 9: number the "
                                              "labels from 0"));
}

struct Unlabelled {
  [[nodiscard]] static int size() { return 8; }
  [[nodiscard]] static data::ImageView decode(int i, data::Image& scratch) {
    return Labelled{std::vector<int>(8)}.decode(i, scratch);
  }
};

TEST(Loader, RefusesADataSetWithoutLabels) {
  using WithLabels = data::Reads<data::Crops<1, Square<8>>, data::Labels>;
  const data::AnyDataset images{Unlabelled{}};
  data::LoaderOptions loading;
  loading.batch = 4;
  EXPECT_THAT([&] { data::Loader(images, WithLabels{}, loading); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("the data set has no labels")));
  data::Loader loader(images, data::Reads<data::Crops<1, Square<8>>>{}, loading);
  EXPECT_NO_THROW(static_cast<void>(loader.next()));
}

TEST(Loader, CropsAndFlipsIfNoViewsAreNamed) {
  const auto images = noise(19);
  auto none = options(1), named = none;
  none.views.clear();
  named.views.assign(2, data::ViewAugmentation::crop_and_flip());
  EXPECT_EQ(stream(images, none, 3), stream(images, named, 3));
}

// A data set that makes its images in the caller's memory, each of another size.
class Decoding {
 public:
  explicit Decoding(const data::IdxDataset& from) : from_(from) {}
  [[nodiscard]] int size() const { return from_.size(); }
  [[nodiscard]] data::ImageView decode(int i, data::Image& scratch) const {
    scratch.resize(12 - i % 5, 12, 1);
    std::copy_n(whole_image(from_, i).pixels, scratch.pixels.size(), scratch.pixels.begin());
    return scratch;
  }

 private:
  const data::IdxDataset& from_;
};

TEST(Loader, DecodesIntoTheScratchOfEachThread) {
  const auto images = noise(47);
  const Decoding decoding(images);
  const FunctionDataset ready{47, [&](int i) {
                                return data::ImageView{whole_image(images, i).pixels, 12 - i % 5, 12, 1};
                              }};
  const auto values_of = [](auto& loader) {
    std::vector<float> all;
    for (int i = 0; i < 9; ++i) {
      const auto& made = loader.next();
      all.insert(all.end(), made.crops[0].begin(), made.crops[0].end());
    }
    return all;
  };
  data::Loader expected(ready, TwoViews{}, options(1));
  const auto values = values_of(expected);
  for (const int threads : {1, 4}) {
    data::Loader loader(decoding, TwoViews{}, options(threads));
    EXPECT_EQ(values_of(loader), values) << threads << " threads";
  }
}

// Images of 50 x 61 pixels of noise; at 1/n of the size every n-th pixel of every n-th row.
struct Scaling {
  [[nodiscard]] static int size() { return 12; }
  [[nodiscard]] static data::ImageView decode(int i, data::Image& scratch) {
    return decode_scaled(i, scratch, [](int, int) { return 1; }).pixels;
  }
  [[nodiscard]] static data::ScaledImage decode_scaled(int i, data::Image& scratch, const data::ScaleChoice& choose) {
    Random random(5, Purpose::test, 0, static_cast<std::uint32_t>(i));
    const int n = choose(50, 61);
    scratch.resize((50 + n - 1) / n, (61 + n - 1) / n, 1);
    for (int y = 0; y < 50; ++y)
      for (int x = 0; x < 61; ++x) {
        const auto value = static_cast<std::uint8_t>(random.below(256));
        if (y % n == 0 && x % n == 0) scratch.row(y / n)[x / n] = value;
      }
    return {scratch, 50, 61, n};
  }
};

// Views of a scaled image are drawn from its full size, and every crop has at least the pixels of its view. A data set
// that does not scale gives whole images.
TEST(Loader, DecodesAtTheScaleThatTheCropsAllow) {
  const Scaling images;
  auto whole = options(2), small = options(2);
  whole.batch = small.batch = 12;
  for (auto& view : whole.views) view.crop_min = 0.02;
  small.views = whole.views;
  small.decode_scaled = true;
  data::Loader<Scaling, TwoViews, data::DrawnBatch<TwoViews>> drawn(images, TwoViews{}, whole);
  data::Loader<Scaling, TwoViews, data::DrawnBatch<TwoViews>> scaled(images, TwoViews{}, small);
  data::Loader made(images, TwoViews{}, small);
  data::AugmentScratch scratch;
  int scales[9] = {};
  for (int batch = 0; batch < 6; ++batch) {
    const auto &full = drawn.next(), &part = scaled.next();
    const auto& crops = made.next().crops[0];
    for (std::size_t i = 0; i < 12; ++i) {
      const int n = (50 + part.pixels[i].height - 1) / part.pixels[i].height;
      ++scales[n];
      bool room_for_half = n < 8;
      for (std::size_t at = i; at < 24; at += 12) {
        const data::Box crop = part.views[at].crop, twice = data::scaled(full.views[at].crop, 2 * n);
        const data::Box expected = data::scaled(full.views[at].crop, n);
        EXPECT_EQ((std::array{crop.top, crop.left, crop.height, crop.width}),
                  (std::array{expected.top, expected.left, expected.height, expected.width}));
        EXPECT_LE(crop.top + crop.height, part.pixels[i].height);
        EXPECT_LE(crop.left + crop.width, part.pixels[i].width);
        EXPECT_TRUE(n == 1 || (crop.height >= 8 && crop.width >= 8));
        room_for_half &= twice.height >= 8 && twice.width >= 8;
        std::vector<float> values(64);
        to_float(apply_view(part.pixels[i], part.views[at], 8, scratch), 1, small.normalization, values.data());
        EXPECT_TRUE(std::equal(values.begin(), values.end(), crops.begin() + static_cast<std::ptrdiff_t>(64 * at)));
      }
      EXPECT_FALSE(room_for_half);
    }
  }
  EXPECT_GT(scales[1], 0);
  EXPECT_GT(scales[2], 0);
  EXPECT_GT(scales[4], 0);

  const auto others = noise(47);
  auto scaling = options(2);
  scaling.decode_scaled = true;
  EXPECT_EQ(stream(others, scaling, 3), stream(others, options(2), 3));
}

TEST(Loader, IsARangeWithoutEnd) {
  const auto images = noise(47);
  const auto expected = stream(images, options(2), 6);
  std::vector<float> all;
  data::Loader loader(images, TwoViews{}, options(2));
  for (const auto& made : loader) {
    all.insert(all.end(), made.crops[0].begin(), made.crops[0].end());
    if (made.epoch == 1 && made.iteration == 1) break;
  }
  EXPECT_EQ(all, expected);
}

// Whoever is slow, the threads or the caller, nobody waits for ever, and a batch stays as it is until the next call.
TEST(Loader, KeepsPaceWithSlowThreadsAndSlowCallers) {
  using namespace std::chrono_literals;
  const auto images = noise(12);
  const FunctionDataset slow{12, [&](int i) {
                               if (i % 5 == 0) std::this_thread::sleep_for(200us);
                               return whole_image(images, i);
                             }};
  auto some = options(3);
  some.batch = 4;
  some.prefetch = 1;
  const auto expected = stream(images, some, 120);
  data::Loader loader(slow, TwoViews{}, some);
  auto at = expected.begin();
  for (int i = 0; i < 120; ++i) {
    const auto& batch = loader.next();
    if (i % 7 == 0) std::this_thread::sleep_for(2ms);
    ASSERT_TRUE(std::equal(batch.crops[0].begin(), batch.crops[0].end(), at)) << i;
    at += static_cast<std::ptrdiff_t>(batch.crops[0].size());
  }
}

TEST(Loader, StopsWhileThreadsAreBusyOrWait) {
  using namespace std::chrono_literals;
  const auto images = noise(47);
  const FunctionDataset slow{47, [&](int i) {
                               std::this_thread::sleep_for(300us);
                               return whole_image(images, i);
                             }};
  for (int i = 0; i < 4; ++i) {
    data::Loader busy(slow, TwoViews{}, options(3));
    data::Loader waiting(images, TwoViews{}, options(3));
    std::this_thread::sleep_for(i * 1ms);
  }
}

TEST(Loader, NextRethrowsWhatADatasetThrew) {
  const auto images = noise(47);
  for (const int threads : {1, 4})
    for (const int good : {0, 1, 25, 60}) {  // images before the fault: in the first batch, later, in the second epoch
      std::atomic<int> seen = 0;
      const FunctionDataset faulty{47, [&](int i) {
                                     if (seen++ >= good)
                                       throw std::out_of_range("image " + std::to_string(i) + " is torn");
                                     return whole_image(images, i);
                                   }};
      data::Loader loader(faulty, TwoViews{}, options(threads));
      const auto message = [&] {
        try {
          for (int i = 0; i < 8; ++i) loader.next();
        } catch (const std::out_of_range& fault) {
          return std::string(fault.what());
        }
        return std::string("no fault");
      };
      const std::string first = message();
      EXPECT_THAT(first, testing::EndsWith("is torn"));
      for (int i = 0; i < 3; ++i) EXPECT_EQ(message(), first);
    }
}

template <int channels>
void expect_unfit(data::ImageView image) {
  const FunctionDataset images{10, [&](int) { return image; }};
  const auto some = options(2);
  data::Loader loader(images, data::Reads<data::Crops<2, Square<8, channels>>>{}, some);
  EXPECT_THAT([&] { loader.next(); }, testing::ThrowsMessage<Error>(testing::HasSubstr("cannot be made of it")));
  std::vector<float> values(192);
  data::AugmentScratch scratch;
  EXPECT_THROW(evaluation_batch(images, 0, 1, 8, channels, some.normalization, values.data(), scratch), Error);
}

TEST(Loader, RefusesImagesThatDoNotFit) {
  const std::vector<std::uint8_t> pixels(300);
  expect_unfit<1>({pixels.data(), 10, 10, 3});
  expect_unfit<3>({pixels.data(), 10, 10, 2});
  expect_unfit<3>({pixels.data(), 10, 10, 4});
  expect_unfit<1>({pixels.data(), 0, 10, 1});
  expect_unfit<3>({pixels.data(), 10, 0, 1});
  expect_unfit<1>({});
}

// Crops and evaluation views of 5 channels are those of each channel for itself.
TEST(Loader, LoadsImagesOfAnyNumberOfChannels) {
  Random random(6, Purpose::test, 0, 0);
  std::vector<data::Image> images;
  for (int i = 0; i < 12; ++i) images.push_back(random_image(9 + i, 14, 5, random));
  const FunctionDataset five{12, [&](int i) -> data::ImageView { return images[static_cast<std::size_t>(i)]; }};
  auto some = options(2);
  for (auto& view : some.views) view = view.without_colors();
  some.normalization = data::measure_normalization(five);
  data::Loader loader(five, data::Reads<data::Crops<2, Square<8, 5>>>{}, some);
  const auto& made = loader.next();
  for (int c = 0; c < 5; ++c) {
    const FunctionDataset one{12, [&](int i) -> data::ImageView {
                                static thread_local data::Image channel;
                                channel = channel_of(images[static_cast<std::size_t>(i)], c);
                                return channel;
                              }};
    auto grey = some;
    grey.normalization.mean[0] = some.normalization.mean[static_cast<std::size_t>(c)];
    grey.normalization.deviation[0] = some.normalization.deviation[static_cast<std::size_t>(c)];
    data::Loader grey_loader(one, TwoViews{}, grey);
    const auto& expected = grey_loader.next();
    for (std::ptrdiff_t row = 0; row < 20; ++row)
      EXPECT_TRUE(std::equal(expected.crops[0].begin() + row * 64, expected.crops[0].begin() + (row + 1) * 64,
                             made.crops[0].begin() + (row * 5 + c) * 64))
          << "crop " << row << ", channel " << c;
  }
}

TEST(Loader, RefusesColoursOfOtherChannelsWhenItStarts) {
  const std::vector<std::uint8_t> pixels(500);
  const FunctionDataset images{10, [&](int) { return data::ImageView{pixels.data(), 10, 10, 5}; }};
  const auto expect_refused = [&](const data::LoaderOptions& some, const std::string& sentence) {
    EXPECT_THAT([&] { data::Loader(images, data::Reads<data::Crops<2, Square<8, 5>>>{}, some); },
                testing::ThrowsMessage<Error>(testing::HasSubstr(sentence)));
  };
  auto some = options(1);
  expect_refused(some, "the normalization has 3 channels, but images of 5 are normalised");
  some.normalization = data::measure_normalization(images);
  expect_refused(some, "set the loader's views[0].jitter and the loader's views[0].grayscale to 0");
  some.views[0] = data::ViewAugmentation::crop_and_flip();
  expect_refused(some, "views[1]");
  some.views[1] = some.views[1].without_colors();
  EXPECT_NO_THROW(data::Loader(images, data::Reads<data::Crops<2, Square<8, 5>>>{}, some));
}

// A grey group behind one of RGB would take the red plane of an RGB image.
TEST(Loader, RefusesRgbImagesForAGreyGroup) {
  const std::vector<std::uint8_t> pixels(300);
  const FunctionDataset images{10, [&](int) { return data::ImageView{pixels.data(), 10, 10, 3}; }};
  data::LoaderOptions three_views = options(2);
  three_views.views.push_back(three_views.views[0]);
  data::Loader loader(images, data::Reads<data::Crops<2, Square<8, 3>>, data::Crops<1, Square<6, 1>>>{}, three_views);
  EXPECT_THAT([&] { loader.next(); }, testing::ThrowsMessage<Error>(testing::HasSubstr("10 pixels of 3 channel(s)")));
}

TEST(Loader, NamesAWrongOption) {
  const auto images = noise(47);
  const auto expect_refused = [&](const std::string& sentence, auto change) {
    auto some = options(1);
    change(some);
    EXPECT_THAT([&] { data::Loader loader(images, TwoViews{}, some); },
                testing::ThrowsMessage<Error>(testing::HasSubstr(sentence)))
        << sentence;
  };
  using Options = data::LoaderOptions;
  expect_refused("batch must be at least 1, not 0", [](Options& o) { o.batch = 0; });
  expect_refused("use a smaller batch", [](Options& o) { o.batch = 48; });
  expect_refused("1 views, but 2 crops of an image are read", [](Options& o) { o.views.resize(1); });
  expect_refused("3 views, but 2 crops of an image are read", [](Options& o) { o.views.resize(3); });
  expect_refused("views[0].crop_min", [](Options& o) { o.views[0].crop_min = 0; });
  expect_refused("views[1].flip must lie between 0 and 1, not 2", [](Options& o) { o.views[1].flip = 2; });
  expect_refused("normalization.deviation must be positive, not 0",
                 [](Options& o) { o.normalization.deviation[1] = 0; });
  expect_refused("threads must be at least 1, not 0", [](Options& o) { o.threads = 0; });
  expect_refused("prefetch must be at least 1, not -1", [](Options& o) { o.prefetch = -1; });
  expect_refused("epoch must be at least 0, not -1", [](Options& o) { o.epoch = -1; });
  expect_refused("iteration must lie between 0 and 3, not -1", [](Options& o) { o.iteration = -1; });
  expect_refused("iteration must lie between 0 and 3, not 4", [](Options& o) { o.iteration = 4; });
  expect_refused("ranks must be at least 1, not 0", [](Options& o) { o.ranks = 0; });
  expect_refused("rank must lie between 0 and 1, not 2", [](Options& o) { o.rank = o.ranks = 2; });
  expect_refused("rank must lie between 0 and 0, not -1", [](Options& o) { o.rank = -1; });
  expect_refused("a batch of 50 images is larger than the data set of 47 images",
                 [](Options& o) { o.batch = 25, o.ranks = 2; });
  const FunctionDataset none{0, [](int) { return data::ImageView{}; }};
  EXPECT_THAT([&] { data::Loader loader(none, TwoViews{}, options(1)); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("data set is empty")));
  EXPECT_TRUE(data::epoch_order(0, 1, 0).empty());
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
  EXPECT_FALSE(data::IdxDataset::is_in(folder));
  write(good_images, good_labels);
  EXPECT_TRUE(data::IdxDataset::is_in(folder));
  const data::IdxDataset set(folder, "train");
  EXPECT_EQ(set.size(), 2);
  EXPECT_EQ(set.width(), 3);
  EXPECT_EQ(whole_image(set, 1).pixels[0], 'd');
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

TEST_F(Idx, ReadsGzipFilesAndRefusesEveryTruncation) {
  write("", good_labels);
  std::filesystem::remove(folder / "train-images-idx3-ubyte");
  const std::filesystem::path path = folder / "train-images-idx3-ubyte.gz";
  std::string images = good_images;
  images[10] = images[14] = 2;  // 2 images of 513 x 515 pixels, more than a buffer
  Random random(5, Purpose::test, 0, 0);
  while (images.size() < 16 + 2 * 513 * 515) images += static_cast<char>(random.below(256));
  images.resize(16 + 2 * 513 * 515);
  const auto pack = [&](const char* mode, std::size_t first, std::size_t count) {
    gzFile file = gzopen(path.c_str(), mode);
    gzwrite(file, images.data() + first, static_cast<unsigned>(count));
    gzclose(file);
  };
  pack("wb", 0, 70000);
  pack("ab", 70000, images.size() - 70000);
  EXPECT_TRUE(data::IdxDataset::is_in(folder));
  const data::IdxDataset set(folder, "train");
  const std::uint8_t* const pixels = whole_image(set, 0).pixels;
  const std::vector<std::uint8_t> read(pixels, pixels + 2 * 513 * 515);
  EXPECT_TRUE(std::equal(read.begin(), read.end(), images.begin() + 16, images.end(),
                         [](std::uint8_t a, char b) { return a == static_cast<std::uint8_t>(b); }));

  for (int length = static_cast<int>(std::filesystem::file_size(path)) - 1, i = 0; i < 40; ++i, --length) {
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(length));
    EXPECT_THAT([&] { data::IdxDataset cut(folder, "train"); },
                testing::ThrowsMessage<Error>(testing::HasSubstr("ends in the middle of its gzip data")));
  }
}

TEST_F(Idx, ReadsFashionMnist) {
  const data::IdxDataset set("/usr/share/datasets/fashion-mnist", "t10k");
  EXPECT_EQ(set.size(), 10000);
  EXPECT_EQ(set.height(), 28);
}

}  // namespace
}  // namespace tessera::test
