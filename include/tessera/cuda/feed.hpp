// Views for a step on the device, made there: the host draws them and sends the images' bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/augment.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/stream.hpp"
#include "tessera/data/loader.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// Two batches are under way: the one that a step works on, and the next, whose bytes are copied from pinned memory on a
// stream of their own meanwhile. A Feed of Pretraining; the same views as HostFeed's.
template <class Backend, class Method, class Dataset>
class DeviceFeed {
 public:
  using Scalar = typename Backend::Scalar;

  // The dataset must outlive the feed. Throws Error that names a wrong option.
  DeviceFeed(Backend& backend, const Dataset& dataset, const data::LoaderOptions& options)
      : backend_(backend),
        normalization_(options.normalization),
        loader_(dataset, options),
        views_(2 * index{options.batch_size}),
        images_(views_ * Method::in),
        stages_{Stage(views_), Stage(views_)} {}

  // The stacked views of the next step, always in the same memory; valid until the following call.
  [[nodiscard]] Rows<const Scalar, Method::in> next() {
    if (!prepared_) prepare();
    prepared_ = false;
    Stage& stage = stages_[current_];
    current_ = 1 - current_;
    const Rows<Scalar, Method::in> images{images_.data(), views_};
    stage.copied.hold(backend_.stream());
    augment<Image::channels, Image::size>(backend_, stage.tasks.data(), views_, stage.pixels.data(), normalization_,
                                          images);
    stage.used.record(backend_.stream());
    return images;
  }

  // Sends the next batch on its way. Call it while a step runs.
  void prepare() {
    if (prepared_) return;
    Stage& stage = stages_[current_];
    stage.used.wait();
    const index bytes = pack(loader_.next(), stage);
    const auto send = [&](const auto& from, const auto& to, index count) {
      check(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(count) * sizeof(*from.data()),
                            cudaMemcpyHostToDevice, copies_.get()),
            "cudaMemcpyAsync");
    };
    send(stage.host_pixels, stage.pixels, bytes);
    send(stage.host_tasks, stage.tasks, views_);
    stage.copied.record(copies_.get());
    prepared_ = true;
  }

 private:
  using Image = typename Method::Encoder::Image;

  struct Stage {
    explicit Stage(index views) : host_tasks(views), tasks(views) {}
    PinnedBuffer<ViewTask> host_tasks;
    PinnedBuffer<std::uint8_t> host_pixels;
    Buffer<ViewTask> tasks;
    Buffer<std::uint8_t> pixels;
    Event copied, used;
  };

  // Puts a batch's images one after the other; returns how many bytes they are.
  index pack(const data::DrawnBatch& batch, Stage& stage) {
    index bytes = 0;
    for (const data::Image& image : batch.pixels) bytes += room_for(image);
    if (bytes > stage.host_pixels.size()) {
      stage.host_pixels = PinnedBuffer<std::uint8_t>(bytes);
      stage.pixels = Buffer<std::uint8_t>(bytes);
    }
    index offset = 0;
    for (std::size_t i = 0; i < batch.pixels.size(); ++i) {
      const data::Image& image = batch.pixels[i];
      std::copy(image.pixels.begin(), image.pixels.end(), stage.host_pixels.data() + offset);
      for (std::size_t view = i; view < batch.views.size(); view += batch.pixels.size())
        stage.host_tasks.data()[view] = {offset, image.width, image.channels, batch.views[view]};
      offset += room_for(image);
    }
    return bytes;
  }

  // Images start at multiples of 16 bytes.
  [[nodiscard]] static index room_for(const data::Image& image) {
    return divide_up(static_cast<index>(image.pixels.size()), 16) * 16;
  }

  Backend& backend_;
  data::Normalization normalization_;
  data::TwoViewLoader<Dataset, data::DrawnBatch> loader_;
  index views_;
  Buffer<Scalar> images_;
  Stream copies_;
  std::array<Stage, 2> stages_;
  std::size_t current_ = 0;
  bool prepared_ = false;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
