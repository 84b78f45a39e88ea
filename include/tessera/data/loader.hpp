// The loader: batches of augmented crops, made ahead by threads.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/threads.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/batch.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/data/reads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The batches of one rank: size, augmentation, seed, threads, and the first batch.
struct LoaderOptions {
  int batch = 256;                           // the local batch, in images
  std::vector<ViewAugmentation> views = {};  // one for each crop of an image; empty: crop_and_flip() for all
  Normalization normalization = imagenet_normalization;
  std::uint64_t seed = 0;
  int threads = 1;
  int prefetch = 3;              // finished batches that may wait
  int epoch = 0, iteration = 0;  // of the first batch
  // Decodes images at 1/2, 1/4 or 1/8 of their size where the data set can and every crop of an image keeps at least
  // the pixels of its view. Crops are the same, but for whole pixels of the smaller image, and pixels are not the same.
  bool decode_scaled = false;
  int rank = 0, ranks = 1;

  // The batch of all ranks, in images, and the number of whole batches of `images` images.
  [[nodiscard]] index global_batch() const { return index{batch} * ranks; }
  [[nodiscard]] int iterations_per_epoch(int images) const { return static_cast<int>(images / global_batch()); }

  // Throws Error if an option is wrong, by itself or for a data set of `images` images; the message names it.
  void check(int images) const {
    const auto at_least = [](const char* option, int value, int low) {
      if (value < low) fail("the loader's {} must be at least {}, not {}", option, low, value);
    };
    const auto within = [](const char* option, int value, int low, int high) {
      if (value < low || value > high)
        fail("the loader's {} must lie between {} and {}, not {}", option, low, high, value);
    };
    at_least("batch", batch, 1);
    for (std::size_t view = 0; view < views.size(); ++view)
      views[view].check(fmt::format("the loader's views[{}]", view));
    at_least("threads", threads, 1);
    at_least("prefetch", prefetch, 1);
    at_least("epoch", epoch, 0);
    at_least("ranks", ranks, 1);
    within("rank", rank, 0, ranks - 1);
    if (images < 1) fail("the loader's data set is empty");
    if (iterations_per_epoch(images) == 0)
      fail("a batch of {} images is larger than the data set of {} images: use a smaller batch", global_batch(),
           images);
    within("iteration", iteration, 0, iterations_per_epoch(images) - 1);
  }
};

// The samples of a batch, and its place in the run.
struct BatchInfo {
  std::vector<int> labels, samples;  // one for each image; labels are 0 if the data set has none
  int epoch = 0, iteration = 0;
};

// The stream of random numbers of crop `crop` of 0 .. crops - 1 of a sample in an epoch (docs/method.md, 1.4).
[[nodiscard]] inline Random view_random(std::uint64_t seed, int epoch, int crops, int crop, int sample) {
  return Random(seed, Purpose::view, static_cast<std::uint32_t>(epoch * crops + crop),
                static_cast<std::uint32_t>(sample));
}

// Calls body(group, crop, number) for every crop of an image: `crop` counts within its group, `number` over all groups.
// group is a compile-time constant.
template <class Reads, class Body>
constexpr void for_crops(Body&& body) {
  [&]<std::size_t... group>(std::index_sequence<group...>) {
    int all = 0;
    (
        [&] {
          for (int crop = 0; crop < Reads::template Group<group>::count; ++crop)
            body(std::integral_constant<std::size_t, group>{}, crop, all++);
        }(),
        ...);
  }
  (std::make_index_sequence<Reads::groups>{});
}

// Draws the random choices of crop `crop` of an image, from its full size.
[[nodiscard]] inline ViewParameters draw_scaled(const ScaledImage& image, const ViewAugmentation& a, Random random) {
  ViewParameters view = draw_view(image.height, image.width, a, random);
  view.crop = scaled(view.crop, image.denominator);
  return view;
}

// A batch of finished crops in memory of the host: for each group count*batch x channels*size*size floats (Batch).
template <class Reads_>
struct MadeBatch : BatchInfo {
  using Reads = Reads_;
  std::array<std::vector<float>, Reads::groups> crops;

  void resize(const LoaderOptions& options) {
    for_crops<Reads>([&](auto group, int, int) {
      using Group = typename Reads::template Group<group>;
      crops[group].resize(static_cast<std::size_t>(Group::count) * static_cast<std::size_t>(options.batch) *
                          Group::Image::values);
    });
  }
  // Makes all crops of image i of the batch.
  void make(const LoaderOptions& options, std::size_t i, const ScaledImage& image, AugmentScratch& scratch) {
    for_crops<Reads>([&](auto group, int crop, int all) {
      using Crop = typename Reads::template Group<group>::Image;
      const auto view = draw_scaled(image, options.views[static_cast<std::size_t>(all)],
                                    view_random(options.seed, epoch, Reads::crops, all, samples[i]));
      const std::size_t row = static_cast<std::size_t>(crop) * samples.size() + i;
      to_float(apply_view(image.pixels, view, Crop::size, scratch), Crop::channels, options.normalization,
               crops[group].data() + row * Crop::values);
    });
  }
  [[nodiscard]] Batch<float, Reads> batch() const {
    Batch<float, Reads> all = Batch<float, Reads>::planned(static_cast<index>(samples.size()));
    for_crops<Reads>([&](auto group, int, int) { std::get<group>(all.crops).data = crops[group].data(); });
    if constexpr (Reads::labels) all.labels = labels.data();
    return all;
  }
};

// A batch of decoded images and the random choices of their crops, from which a device makes the crops. pixels[i] is
// image i of the batch; views[crop * batch + i] its crop number `crop` of all groups.
template <class Reads_>
struct DrawnBatch : BatchInfo {
  using Reads = Reads_;
  std::vector<Image> pixels;
  std::vector<ViewParameters> views;

  void resize(const LoaderOptions& options) {
    pixels.resize(static_cast<std::size_t>(options.batch));
    views.resize(static_cast<std::size_t>(Reads::crops) * pixels.size());
  }
  void make(const LoaderOptions& options, std::size_t i, const ScaledImage& image, AugmentScratch&) {
    const ImageView from = image.pixels;
    pixels[i].resize(from.height, from.width, from.channels);
    std::copy_n(from.pixels, from.size(), pixels[i].pixels.begin());
    for (int crop = 0; crop < Reads::crops; ++crop) {
      const auto at = static_cast<std::size_t>(crop);
      views[at * pixels.size() + i] =
          draw_scaled(image, options.views[at], view_random(options.seed, epoch, Reads::crops, crop, samples[i]));
    }
  }
};

// The order of the samples in an epoch: a permutation of 0 .. size - 1 that depends on seed and epoch alone. A batch is
// a consecutive range of it and a rank has a consecutive part of the batch, so that a batch has the same images for any
// number of ranks (docs/method.md, 1.4).
[[nodiscard]] inline std::vector<int> epoch_order(int size, std::uint64_t seed, int epoch) {
  std::vector<int> permutation(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) permutation[static_cast<std::size_t>(i)] = i;
  Random random(seed, Purpose::permutation, static_cast<std::uint32_t>(epoch), 0);
  for (std::size_t count = permutation.size(); count > 1; --count)
    std::swap(permutation[count - 1], permutation[random.below(static_cast<std::uint32_t>(count))]);
  return permutation;
}

// Batches of the data that Reads names, epoch after epoch without end; an incomplete last batch of an epoch is left
// out. A batch depends on seed, epoch and iteration alone, not on the number of threads. Made is MadeBatch<Reads> or
// DrawnBatch<Reads>.
template <class Images, class Reads, class Made = MadeBatch<Reads>>
class Loader {
  static_assert(Dataset<Images>, "tessera: a data set needs size() and decode(i, scratch); data/dataset.hpp says more");
  static_assert(!Reads::labels || LabelledDataset<Images>,
                "tessera: this objective reads labels, but the data set has no label(i)");

 public:
  // The data set must outlive the loader. Throws Error that names a wrong option, or an image with a wrong label.
  Loader(const Images& images, Reads, const LoaderOptions& options)
      : images_(images),
        options_(checked(options, images.size())),
        slots_(static_cast<std::size_t>(options.prefetch) + 1) {
    if constexpr (Reads::labels && requires { images.labelled(); })
      if (!images.labelled()) fail("the data set has no labels, which this objective reads: give it one with labels");
    if constexpr (Reads::classes > 0) check_labels(images, Reads::classes);
    for (Slot& slot : slots_) {
      slot.batch.samples.resize(static_cast<std::size_t>(options.batch));
      slot.batch.labels.resize(slot.batch.samples.size());
      slot.batch.resize(options_);
    }
    first_ = produced_ = consumed_ = static_cast<long>(options.epoch) * iterations_per_epoch() + options.iteration;
    open_batch();
    for (int i = 0; i < options.threads; ++i)
      threads_.push_back(
          start_thread<std::jthread>("the loader", options.threads, [this](std::stop_token stop) { work(stop); }));
  }

  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  [[nodiscard]] int iterations_per_epoch() const { return options_.iterations_per_epoch(images_.size()); }

  // The next batch, valid until the following call. If a loader thread has thrown, this call and all later ones rethrow
  // that exception. Call it from one thread at a time.
  const Made& next() {
    std::unique_lock lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    if (consumed_ > first_) slot(consumed_ - 1).done = -1;
    room_.notify_all();
    const Slot& ready = slot(consumed_);
    filled_.wait(lock, [&] { return error_ || (ready.number == consumed_ && ready.done == options_.batch); });
    if (error_) std::rethrow_exception(error_);
    ++consumed_;
    return ready.batch;
  }

  // Makes the loader a range without end: for (const auto& batch : loader).
  class Iterator {
   public:
    explicit Iterator(Loader& loader) : loader_(loader), made_(&loader.next()) {}
    [[nodiscard]] const Made& operator*() const { return *made_; }
    Iterator& operator++() {
      made_ = &loader_.next();
      return *this;
    }
    [[nodiscard]] bool operator!=(std::unreachable_sentinel_t) const { return true; }

   private:
    Loader& loader_;
    const Made* made_;
  };
  [[nodiscard]] Iterator begin() { return Iterator(*this); }
  [[nodiscard]] static constexpr std::unreachable_sentinel_t end() { return {}; }

 private:
  struct Slot {
    Made batch;
    long number = -1;  // of its batch
    int done = -1;     // finished samples of the batch; -1: the slot is free
  };

  [[nodiscard]] static LoaderOptions checked(LoaderOptions options, int images) {
    constexpr auto crops = static_cast<std::size_t>(Reads::crops);
    if (options.views.empty()) options.views.assign(crops, ViewAugmentation::crop_and_flip());
    if (options.views.size() != crops)
      fail("the loader has {} views, but {} crops of an image are read; give one view for each crop",
           options.views.size(), crops);
    options.check(images);
    for_crops<Reads>([&](auto group, int, int all) {
      check_normalization(options.normalization, Reads::template Group<group>::Image::channels);
      options.views[static_cast<std::size_t>(all)].check_channels(fmt::format("the loader's views[{}]", all),
                                                                  Reads::channels);
    });
    return options;
  }
  [[nodiscard]] Slot& slot(long number) { return slots_[static_cast<std::size_t>(number) % slots_.size()]; }

  // Prepares batch number `produced_` if its slot is free. Call it with the lock held, or before the threads start.
  bool open_batch() {
    Slot& next = slot(produced_);
    if (next.done >= 0) return false;
    const int epoch = static_cast<int>(produced_ / iterations_per_epoch());
    if (epoch != order_epoch_) {
      order_ = epoch_order(images_.size(), options_.seed, epoch);
      order_epoch_ = epoch;
    }
    next.number = produced_;
    next.done = 0;
    next.batch.epoch = epoch;
    next.batch.iteration = static_cast<int>(produced_ % iterations_per_epoch());
    const index first = next.batch.iteration * options_.global_batch() + index{options_.rank} * options_.batch;
    std::copy_n(order_.begin() + first, options_.batch, next.batch.samples.begin());
    taken_ = 0;
    return true;
  }

  void work(const std::stop_token& stop) {
    try {
      make_batches(stop);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      filled_.notify_all();
      room_.notify_all();
    }
  }

  // Makes samples until another thread fails or the loader is destroyed.
  void make_batches(const std::stop_token& stop) {
    AugmentScratch scratch;
    constexpr int grain = 8;  // samples that a thread takes at once
    for (std::unique_lock lock(mutex_);;) {
      room_.wait(lock, stop, [&] { return error_ || taken_ < options_.batch || open_batch(); });
      if (error_ || stop.stop_requested()) return;
      Slot& target = slot(produced_);
      const int first = taken_, last = options_.batch - first < grain ? options_.batch : first + grain;
      taken_ = last;
      if (taken_ == options_.batch) {
        ++produced_;
        if (open_batch()) room_.notify_all();
      }
      lock.unlock();
      for (int i = first; i < last; ++i) make(target.batch, static_cast<std::size_t>(i), scratch);
      lock.lock();
      target.done += last - first;
      if (target.done == options_.batch) filled_.notify_all();
    }
  }

  void make(Made& batch, std::size_t i, AugmentScratch& scratch) const {
    const int sample = batch.samples[i];
    if constexpr (LabelledDataset<Images>) batch.labels[i] = images_.label(sample);
    batch.make(options_, i, decode(batch.epoch, sample, scratch.decoded), scratch);
  }

  [[nodiscard]] ScaledImage decode(int epoch, int sample, Image& scratch) const {
    if constexpr (ScalingDataset<Images>)
      if (options_.decode_scaled) {
        const ScaledImage image = images_.decode_scaled(
            sample, scratch, [&](int height, int width) { return largest_denominator(epoch, sample, height, width); });
        check_pixels(image.pixels, sample, Reads::channels);
        return image;
      }
    return not_scaled(decoded(images_, sample, Reads::channels, scratch));
  }

  // The largest denominator of 8, 4, 2 and 1 with which every crop of a sample of height x width pixels keeps the
  // pixels of its view; 1 if a crop has fewer.
  [[nodiscard]] int largest_denominator(int epoch, int sample, int height, int width) const {
    int denominator = 8;
    for_crops<Reads>([&](auto group, int, int all) {
      constexpr int size = Reads::template Group<group>::Image::size;
      const auto draw = [&] {
        return draw_scaled({{}, height, width, denominator}, options_.views[static_cast<std::size_t>(all)],
                           view_random(options_.seed, epoch, Reads::crops, all, sample))
            .crop;
      };
      for (Box crop = draw(); denominator > 1 && (crop.height < size || crop.width < size); crop = draw())
        denominator /= 2;
    });
    return denominator;
  }

  const Images& images_;
  LoaderOptions options_;
  std::vector<Slot> slots_;
  std::vector<int> order_;
  int order_epoch_ = -1;
  long first_ = 0, produced_ = 0, consumed_ = 0;  // numbers of batches since the start of training
  int taken_ = 0;                                 // samples of batch `produced_` that threads have taken
  std::exception_ptr error_;                      // the first exception of a thread; all threads then stop
  std::mutex mutex_;
  std::condition_variable_any room_;
  std::condition_variable filled_;
  std::vector<std::jthread> threads_;  // the last member: stopped and joined first
};

// Assigns to `to` (count x channels*size*size) the evaluation views of images [first, first + count) of a data set,
// normalised (docs/method.md, 3.7). The shorter side is resized to size * 8 / 7 pixels, which is 256 for 224.
template <Dataset Images>
void evaluation_batch(const Images& images, int first, int count, int size, int channels,
                      const Normalization& normalization, float* to, AugmentScratch& scratch) {
  check_normalization(normalization, channels);
  const std::size_t values = static_cast<std::size_t>(channels * size * size);
  for (int i = 0; i < count; ++i)
    to_float(evaluation_view(decoded(images, first + i, channels, scratch.decoded), size * 8 / 7, size, scratch),
             channels, normalization, to + static_cast<std::size_t>(i) * values);
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
