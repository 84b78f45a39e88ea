// Batches of augmented views, made ahead of time by threads.
#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/augment.hpp"

namespace tessera::inline TESSERA_ABI::data {

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
};

// One batch: images holds 2 * batch_size rows of channels*size*size floats, first the first views, then the second.
struct Batch {
  std::vector<float> images;
  std::vector<int> labels, samples;
  int epoch = 0, iteration = 0;
};

// The epoch's order of samples for one rank (spec 1.1): a permutation by (seed, epoch), padded with its own start to a
// multiple of `ranks`; rank r takes positions r, r + ranks, ...
[[nodiscard]] inline std::vector<int> epoch_order(int size, const LoaderOptions& options, int epoch) {
  std::vector<int> permutation(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) permutation[static_cast<std::size_t>(i)] = i;
  Random random(options.seed, Purpose::permutation, static_cast<std::uint32_t>(epoch), 0);
  for (std::size_t last = permutation.size() - 1; last > 0; --last)
    std::swap(permutation[last], permutation[random.below(static_cast<std::uint32_t>(last + 1))]);
  std::vector<int> mine;
  const int share = (size + options.ranks - 1) / options.ranks;
  for (int i = 0; i < share; ++i)
    mine.push_back(permutation[static_cast<std::size_t>((i * options.ranks + options.rank) % size)]);
  return mine;
}

// Endless batches of two views over a Dataset, epoch after epoch; the last incomplete batch of an epoch is dropped.
// What a batch holds depends on the seed, the epoch and the position alone, never on the number of threads.
template <class Dataset>
class TwoViewLoader {
 public:
  // The dataset must outlive the loader. Throws Error if an epoch has less than one batch.
  TwoViewLoader(const Dataset& dataset, const LoaderOptions& options)
      : dataset_(dataset), options_(options), slots_(static_cast<std::size_t>(options.prefetch + 1)) {
    if (iterations_per_epoch() == 0)
      fail("a batch of {} images is larger than the {} images of a rank's epoch: use a smaller --batch-size",
           options.batch_size, (dataset.size() + options.ranks - 1) / options.ranks);
    for (Slot& slot : slots_) {
      slot.batch.images.resize(2 * static_cast<std::size_t>(options.batch_size) * values());
      slot.batch.labels.resize(static_cast<std::size_t>(options.batch_size));
      slot.batch.samples.resize(static_cast<std::size_t>(options.batch_size));
    }
    first_ = produced_ = consumed_ = static_cast<long>(options.epoch) * iterations_per_epoch() + options.iteration;
    open_batch();
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { work(); });
  }

  TwoViewLoader(const TwoViewLoader&) = delete;
  TwoViewLoader& operator=(const TwoViewLoader&) = delete;

  ~TwoViewLoader() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  [[nodiscard]] int iterations_per_epoch() const {
    return (dataset_.size() + options_.ranks - 1) / options_.ranks / options_.batch_size;
  }

  // The next batch; valid until the following call. Rethrows what a thread threw.
  const Batch& next() {
    std::unique_lock lock(mutex_);
    if (consumed_ > first_) slot(consumed_ - 1).done = -1;
    Slot& ready = slot(consumed_);
    room_.notify_all();
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

  [[nodiscard]] Slot& slot(long number) { return slots_[static_cast<std::size_t>(number) % slots_.size()]; }
  [[nodiscard]] std::size_t values() const {
    return static_cast<std::size_t>(options_.channels * options_.image_size * options_.image_size);
  }

  // Prepares the batch `produced_` if its slot is free. The lock is held, or no thread runs yet.
  bool open_batch() {
    Slot& next = slot(produced_);
    if (next.done >= 0 || produced_ >= consumed_ + static_cast<long>(slots_.size())) return false;
    const int epoch = static_cast<int>(produced_ / iterations_per_epoch());
    if (epoch != order_epoch_) {
      order_ = epoch_order(dataset_.size(), options_, epoch);
      order_epoch_ = epoch;
    }
    next.number = produced_;
    next.done = 0;
    next.batch.epoch = epoch;
    next.batch.iteration = static_cast<int>(produced_ % iterations_per_epoch());
    std::copy_n(order_.begin() + next.batch.iteration * options_.batch_size, options_.batch_size,
                next.batch.samples.begin());
    taken_ = 0;
    return true;
  }

  void work() {
    AugmentScratch scratch;
    constexpr int share = 8;  // samples that a thread takes at once
    for (std::unique_lock lock(mutex_);;) {
      room_.wait(lock, [&] { return stopping_ || taken_ < options_.batch_size || open_batch(); });
      if (stopping_) return;
      Slot& target = slot(produced_);
      const int first = taken_, last = first + share < options_.batch_size ? first + share : options_.batch_size;
      taken_ = last;
      if (taken_ == options_.batch_size) {
        ++produced_;
        if (open_batch()) room_.notify_all();
      }
      lock.unlock();
      try {
        for (int i = first; i < last; ++i) make(target.batch, i, scratch);
      } catch (...) {
        lock.lock();
        error_ = std::current_exception();
        filled_.notify_all();
        return;
      }
      lock.lock();
      target.done += last - first;
      if (target.done == options_.batch_size) filled_.notify_all();
    }
  }

  void make(Batch& batch, int i, AugmentScratch& scratch) const {
    const int sample = batch.samples[static_cast<std::size_t>(i)];
    const ImageView image = dataset_.image(sample);
    batch.labels[static_cast<std::size_t>(i)] = dataset_.label(sample);
    for (std::size_t view = 0; view < 2; ++view) {
      Random random(options_.seed, Purpose::view,
                    static_cast<std::uint32_t>(batch.epoch * 2) + static_cast<std::uint32_t>(view),
                    static_cast<std::uint32_t>(sample));
      const std::size_t row = view * static_cast<std::size_t>(options_.batch_size) + static_cast<std::size_t>(i);
      to_float(random_view(image, options_.views[view], options_.image_size, random, scratch), options_.channels,
               options_.normalization, batch.images.data() + row * values());
    }
  }

  const Dataset& dataset_;
  LoaderOptions options_;
  std::vector<Slot> slots_;
  std::vector<int> order_;
  int order_epoch_ = -1;
  long first_ = 0, produced_ = 0, consumed_ = 0;  // numbers of batches since the start of training
  int taken_ = 0;                                 // samples of batch `produced_` that threads have taken
  bool stopping_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable room_, filled_;
  std::vector<std::thread> threads_;
};

// Images [first, first + count) of a dataset as a network sees them at evaluation: `to` receives count rows of
// channels*size*size floats. Images of that size are taken as they are, others resized by 256/224 and centre-cropped.
template <class Dataset>
void evaluation_batch(const Dataset& dataset, int first, int count, int size, int channels,
                      const Normalization& normalization, float* to, AugmentScratch& scratch) {
  const std::size_t values = static_cast<std::size_t>(channels * size * size);
  for (int i = 0; i < count; ++i)
    to_float(evaluation_view(dataset.image(first + i), size * 8 / 7, size, scratch), channels, normalization,
             to + static_cast<std::size_t>(i) * values);
}

}  // namespace tessera::inline TESSERA_ABI::data
