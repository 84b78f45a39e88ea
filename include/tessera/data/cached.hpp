// Decoded pictures that stay in memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/data/any_dataset.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Bytes that data sets share for what they keep. Any thread may call it.
class CacheRoom {
 public:
  explicit CacheRoom(std::int64_t bytes) : left_(bytes) {}

  // False: they are not there.
  [[nodiscard]] bool take(std::int64_t bytes) noexcept {
    if (left_.fetch_sub(bytes) >= bytes) return true;
    give_back(bytes);
    return false;
  }
  void give_back(std::int64_t bytes) noexcept { left_ += bytes; }

 private:
  std::atomic<std::int64_t> left_;
};

// A data set that keeps its pictures as they were decoded first, as long as there is room for them. The pictures are
// the same with and without.
class Cached {
 public:
  Cached(AnyDataset images, std::shared_ptr<CacheRoom> room)
      : images_(std::move(images)),
        room_(std::move(room)),
        kept_(std::make_unique<std::atomic<Image*>[]>(static_cast<std::size_t>(images_.size()))) {}
  Cached(Cached&&) noexcept = default;
  Cached& operator=(Cached&&) = delete;
  ~Cached() {
    for (int i = 0; kept_ && i < size(); ++i) delete kept_[static_cast<std::size_t>(i)].load();
  }

  [[nodiscard]] int size() const { return images_.size(); }
  [[nodiscard]] bool labelled() const { return images_.labelled(); }
  [[nodiscard]] int label(int i) const { return images_.label(i); }
  [[nodiscard]] std::string name(int i) const { return images_.name(i); }

  [[nodiscard]] ImageView decode(int i, Image& scratch) const {
    std::atomic<Image*>& kept = kept_[static_cast<std::size_t>(i)];
    if (const Image* const image = kept.load(std::memory_order_acquire)) return *image;
    const ImageView view = images_.decode(i, scratch);
    const auto bytes = static_cast<std::int64_t>(view.size() + sizeof(Image));
    if (!room_->take(bytes)) return view;
    std::unique_ptr<Image> copy = copy_of(view);
    Image* nobody = nullptr;
    if (copy && kept.compare_exchange_strong(nobody, copy.get(), std::memory_order_acq_rel))
      static_cast<void>(copy.release());
    else
      room_->give_back(bytes);
    return view;
  }

 private:
  // Nothing if there is too little memory, which is no reason to end a run.
  [[nodiscard]] static std::unique_ptr<Image> copy_of(ImageView view) {
    try {
      auto copy = std::make_unique<Image>();
      copy->resize(view.height, view.width, view.channels);
      std::copy_n(view.pixels, view.size(), copy->pixels.begin());
      return copy;
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }

  AnyDataset images_;
  std::shared_ptr<CacheRoom> room_;
  std::unique_ptr<std::atomic<Image*>[]> kept_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
