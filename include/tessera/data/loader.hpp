// Batches of augmented views, made ahead of time by threads.
#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/normalization.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Which samples a rank sees, in which order.
struct LoaderOptions {
  int batch_size = 256;  // images per batch on this rank
  int image_size = 28;   // pixels a side of a view
  int channels = 1;      // of a view; grey images are repeated to fill them
  std::array<ViewAugmentation, 2> views = moco_v3_views(0.08);
  Normalization normalization = imagenet_normalization;
  std::uint64_t seed = 0;
  int threads = 1;
  int prefetch = 3;              // batches that may wait
  int epoch = 0, iteration = 0;  // where to start
  int rank = 0, ranks = 1;

  // The batch of all ranks, and how many whole ones a data set has.
  [[nodiscard]] index global_batch() const { return index{batch_size} * ranks; }
  [[nodiscard]] int iterations_per_epoch(int images) const { return static_cast<int>(images / global_batch()); }

  // Throws Error that names the option which is wrong, by itself or for a data set of `images` images.
  void check(int images) const {
    const auto at_least = [](const char* option, int value, int low) {
      if (value < low) fail("the loader's {} must be at least {}, not {}", option, low, value);
    };
    const auto within = [](const char* option, int value, int low, int high) {
      if (value < low || value > high)
        fail("the loader's {} must lie between {} and {}, not {}", option, low, high, value);
    };
    at_least("batch_size", batch_size, 1);
    within("image_size", image_size, 1, 1 << 14);
    if (channels != 1 && channels != 3) fail("the loader's channels must be 1 or 3, not {}", channels);
    views[0].check("the loader's views[0]");
    views[1].check("the loader's views[1]");
    for (const float deviation : normalization.deviation)
      if (!(deviation > 0)) fail("the loader's normalization.deviation must be positive, not {}", deviation);
    at_least("threads", threads, 1);
    at_least("prefetch", prefetch, 1);
    at_least("epoch", epoch, 0);
    at_least("ranks", ranks, 1);
    within("rank", rank, 0, ranks - 1);
    if (images < 1) fail("the loader's data set is empty");
    if (iterations_per_epoch(images) == 0)
      fail("a batch of {} images is larger than the {} images of an epoch: use a smaller --batch-size", global_batch(),
           images);
    within("iteration", iteration, 0, iterations_per_epoch(images) - 1);
  }
};

// What every batch says of itself.
struct BatchInfo {
  std::vector<int> labels, samples;
  int epoch = 0, iteration = 0;
};

// The stream that view `view` of a sample is drawn from.
[[nodiscard]] inline Random view_random(std::uint64_t seed, int epoch, std::size_t view, int sample) {
  return Random(seed, Purpose::view, static_cast<std::uint32_t>(epoch * 2) + static_cast<std::uint32_t>(view),
                static_cast<std::uint32_t>(sample));
}

// Finished views: 2 * batch_size rows of channels*size*size floats, first the first views, then the second.
struct Batch : BatchInfo {
  std::vector<float> images;

  void resize(const LoaderOptions& options) {
    images.resize(2 * static_cast<std::size_t>(options.batch_size) * values(options));
  }
  // Makes both views of sample i.
  void make(const LoaderOptions& options, std::size_t i, ImageView image, AugmentScratch& scratch) {
    for (std::size_t view = 0; view < 2; ++view) {
      Random random = view_random(options.seed, epoch, view, samples[i]);
      const std::size_t row = view * static_cast<std::size_t>(options.batch_size) + i;
      to_float(random_view(image, options.views[view], options.image_size, random, scratch), options.channels,
               options.normalization, images.data() + row * values(options));
    }
  }

 private:
  static std::size_t values(const LoaderOptions& options) {
    return static_cast<std::size_t>(options.channels * options.image_size * options.image_size);
  }
};

// Views that were drawn and not made: a device makes them. pixels[i] is sample i's image, views[i] and
// views[batch_size + i] its two views.
struct DrawnBatch : BatchInfo {
  std::vector<Image> pixels;
  std::vector<ViewParameters> views;

  void resize(const LoaderOptions& options) {
    pixels.resize(static_cast<std::size_t>(options.batch_size));
    views.resize(2 * pixels.size());
  }
  void make(const LoaderOptions& options, std::size_t i, ImageView image, AugmentScratch&) {
    pixels[i].resize(image.height, image.width, image.channels);
    std::copy_n(image.pixels, image.size(), pixels[i].pixels.begin());
    for (std::size_t view = 0; view < 2; ++view) {
      Random random = view_random(options.seed, epoch, view, samples[i]);
      views[view * pixels.size() + i] = draw_view(image.height, image.width, options.views[view], random);
    }
  }
};

// The epoch's order of samples: a permutation by (seed, epoch). Batches are consecutive pieces of it, and every rank
// has a consecutive part of each, so that a batch holds the same images whatever the number of ranks. (The reference
// deals them to the ranks in turn: the same batches in another order, but for the padding of the last one.)
[[nodiscard]] inline std::vector<int> epoch_order(int size, std::uint64_t seed, int epoch) {
  std::vector<int> permutation(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) permutation[static_cast<std::size_t>(i)] = i;
  Random random(seed, Purpose::permutation, static_cast<std::uint32_t>(epoch), 0);
  for (std::size_t count = permutation.size(); count > 1; --count)
    std::swap(permutation[count - 1], permutation[random.below(static_cast<std::uint32_t>(count))]);
  return permutation;
}

namespace detail {

// Image i of a dataset, if views of `channels` channels can be made of it.
template <class Dataset>
[[nodiscard]] ImageView image_for(const Dataset& dataset, int i, int channels) {
  const ImageView image = dataset.image(i);
  if (image.height < 1 || image.width < 1 || (image.channels != 1 && image.channels != channels))
    fail("image {} has {} x {} pixels of {} channel(s): views of {} channel(s) cannot be made of it", i, image.height,
         image.width, image.channels, channels);
  return image;
}

}  // namespace detail

// Endless batches of two views over a Dataset, epoch after epoch; the last incomplete batch of an epoch is dropped.
// What a batch holds depends on the seed, the epoch and the position alone, never on the number of threads.
// Batch: finished views, or DrawnBatch.
template <class Dataset, class Batch = data::Batch>
class TwoViewLoader {
 public:
  // The dataset must outlive the loader. Throws Error that names a wrong option.
  TwoViewLoader(const Dataset& dataset, const LoaderOptions& options)
      : dataset_(dataset),
        options_(checked(options, dataset.size())),
        slots_(static_cast<std::size_t>(options.prefetch) + 1) {
    for (Slot& slot : slots_) {
      slot.batch.resize(options);
      slot.batch.labels.resize(static_cast<std::size_t>(options.batch_size));
      slot.batch.samples.resize(static_cast<std::size_t>(options.batch_size));
    }
    first_ = produced_ = consumed_ = static_cast<long>(options.epoch) * iterations_per_epoch() + options.iteration;
    open_batch();
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  }

  TwoViewLoader(const TwoViewLoader&) = delete;
  TwoViewLoader& operator=(const TwoViewLoader&) = delete;

  [[nodiscard]] int iterations_per_epoch() const { return options_.iterations_per_epoch(dataset_.size()); }

  // The next batch; valid until the following call. Rethrows what a thread threw, then and ever after. For one thread
  // at a time.
  const Batch& next() {
    std::unique_lock lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    if (consumed_ > first_) slot(consumed_ - 1).done = -1;
    room_.notify_all();
    const Slot& ready = slot(consumed_);
    filled_.wait(lock, [&] { return error_ || (ready.number == consumed_ && ready.done == options_.batch_size); });
    if (error_) std::rethrow_exception(error_);
    ++consumed_;
    return ready.batch;
  }

 private:
  struct Slot {
    Batch batch;
    long number = -1;  // which batch it holds
    int done = -1;     // finished samples of it; -1: free
  };

  [[nodiscard]] static const LoaderOptions& checked(const LoaderOptions& options, int images) {
    options.check(images);
    return options;
  }
  [[nodiscard]] Slot& slot(long number) { return slots_[static_cast<std::size_t>(number) % slots_.size()]; }

  // Prepares the batch `produced_` if its slot is free. The lock is held, or no thread runs yet.
  bool open_batch() {
    Slot& next = slot(produced_);
    if (next.done >= 0) return false;
    const int epoch = static_cast<int>(produced_ / iterations_per_epoch());
    if (epoch != order_epoch_) {
      order_ = epoch_order(dataset_.size(), options_.seed, epoch);
      order_epoch_ = epoch;
    }
    next.number = produced_;
    next.done = 0;
    next.batch.epoch = epoch;
    next.batch.iteration = static_cast<int>(produced_ % iterations_per_epoch());
    const index first = next.batch.iteration * options_.global_batch() + index{options_.rank} * options_.batch_size;
    std::copy_n(order_.begin() + first, options_.batch_size, next.batch.samples.begin());
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

  // Until another thread fails, or the loader is destroyed.
  void make_batches(const std::stop_token& stop) {
    AugmentScratch scratch;
    constexpr int share = 8;  // samples that a thread takes at once
    for (std::unique_lock lock(mutex_);;) {
      room_.wait(lock, stop, [&] { return error_ || taken_ < options_.batch_size || open_batch(); });
      if (error_ || stop.stop_requested()) return;
      Slot& target = slot(produced_);
      const int first = taken_, last = options_.batch_size - first < share ? options_.batch_size : first + share;
      taken_ = last;
      if (taken_ == options_.batch_size) {
        ++produced_;
        if (open_batch()) room_.notify_all();
      }
      lock.unlock();
      for (int i = first; i < last; ++i) make(target.batch, static_cast<std::size_t>(i), scratch);
      lock.lock();
      target.done += last - first;
      if (target.done == options_.batch_size) filled_.notify_all();
    }
  }

  void make(Batch& batch, std::size_t i, AugmentScratch& scratch) const {
    const int sample = batch.samples[i];
    batch.labels[i] = dataset_.label(sample);
    batch.make(options_, i, detail::image_for(dataset_, sample, options_.channels), scratch);
  }

  const Dataset& dataset_;
  LoaderOptions options_;
  std::vector<Slot> slots_;
  std::vector<int> order_;
  int order_epoch_ = -1;
  long first_ = 0, produced_ = 0, consumed_ = 0;  // numbers of batches since the start of training
  int taken_ = 0;                                 // samples of batch `produced_` that threads have taken
  std::exception_ptr error_;                      // the first; all threads stop at it
  std::mutex mutex_;
  std::condition_variable_any room_;
  std::condition_variable filled_;
  std::vector<std::jthread> threads_;  // the last member: stopped and joined first
};

// Images [first, first + count) of a dataset as a network sees them at evaluation: `to` receives count rows of
// channels*size*size floats. Images of that size are taken as they are, others resized by 256/224 and centre-cropped.
template <class Dataset>
void evaluation_batch(const Dataset& dataset, int first, int count, int size, int channels,
                      const Normalization& normalization, float* to, AugmentScratch& scratch) {
  const std::size_t values = static_cast<std::size_t>(channels * size * size);
  for (int i = 0; i < count; ++i)
    to_float(evaluation_view(detail::image_for(dataset, first + i, channels), size * 8 / 7, size, scratch), channels,
             normalization, to + static_cast<std::size_t>(i) * values);
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
