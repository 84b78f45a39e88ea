// Crops for a step on the device, made there: the host draws them and sends the images' bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/augment.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/stream.hpp"
#include "tessera/data/batch.hpp"
#include "tessera/data/loader.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// Two batches are under way: the one that a step works on, and the next, whose bytes are copied from pinned memory on a
// stream of their own meanwhile. The same crops as data::HostSource's.
template <class Scalar, class Reads, class Images>
class DeviceSource {
 public:
  // The data set must outlive the source. Throws Error that names a wrong option.
  DeviceSource(Backend<Scalar>& backend, const Images& images, const data::LoaderOptions& options)
      : backend_(backend),
        normalization_(options.normalization),
        loader_(images, Reads{}, options),
        images_(options.batch),
        labels_(options.batch),
        stages_{Stage(images_), Stage(images_)} {
    data::for_crops<Reads>([&](auto group, int crop, int) {
      using Group = typename Reads::template Group<group>;
      if (crop == 0) crops_[group] = Buffer<Scalar>(Group::count * images_ * Group::Image::values);
    });
  }

  // The batch of the next step, always in the same memory; valid until the following call.
  [[nodiscard]] data::Batch<Scalar, Reads> next() {
    if (!prepared_) prepare();
    prepared_ = false;
    Stage& stage = stages_[current_];
    current_ = 1 - current_;
    auto batch = data::Batch<Scalar, Reads>::planned(images_);
    stage.copied.hold(backend_.stream());
    data::for_crops<Reads>([&](auto group, int crop, int all) {
      if (crop > 0) return;
      using Image = typename Reads::template Group<group>::Image;
      std::get<group>(batch.crops).data = crops_[group].data();
      augment<Image::channels, Image::size>(
          backend_, stage.tasks.data() + all * images_, std::get<group>(batch.crops).rows, stage.pixels.data(),
          normalization_, Rows<Scalar, Image::values>{crops_[group].data(), std::get<group>(batch.crops).rows});
    });
    if constexpr (Reads::labels) {
      backend_.copy(images_, stage.labels.data(), labels_.data());
      batch.labels = labels_.data();
    }
    stage.used.record(backend_.stream());
    return batch;
  }

  // Sends the next batch on its way. Call it while a step runs.
  void prepare() {
    if (prepared_) return;
    Stage& stage = stages_[current_];
    stage.used.wait();
    const auto& drawn = loader_.next();
    const index bytes = pack(drawn, stage);
    const auto send = [&](const auto& from, const auto& to, index count) {
      check(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(count) * sizeof(*from.data()),
                            cudaMemcpyHostToDevice, copies_.get()),
            "cudaMemcpyAsync");
    };
    send(stage.host_pixels, stage.pixels, bytes);
    send(stage.host_tasks, stage.tasks, Reads::crops * images_);
    if constexpr (Reads::labels) {
      std::copy(drawn.labels.begin(), drawn.labels.end(), stage.host_labels.data());
      send(stage.host_labels, stage.labels, images_);
    }
    stage.copied.record(copies_.get());
    prepared_ = true;
  }

 private:
  struct Stage {
    explicit Stage(index images)
        : host_tasks(Reads::crops * images), host_labels(images), tasks(Reads::crops * images), labels(images) {}
    PinnedBuffer<ViewTask> host_tasks;
    PinnedBuffer<int> host_labels;
    PinnedBuffer<std::uint8_t> host_pixels;
    Buffer<ViewTask> tasks;
    Buffer<int> labels;
    Buffer<std::uint8_t> pixels;
    Event copied, used;
  };

  // Puts a batch's images one after the other; returns how many bytes they are.
  index pack(const data::DrawnBatch<Reads>& batch, Stage& stage) {
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

  Backend<Scalar>& backend_;
  data::Normalization normalization_;
  data::Loader<Images, Reads, data::DrawnBatch<Reads>> loader_;
  index images_;
  std::array<Buffer<Scalar>, Reads::groups> crops_;
  Buffer<int> labels_;
  Stream copies_;
  std::array<Stage, 2> stages_;
  std::size_t current_ = 0;
  bool prepared_ = false;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
