// A data set whose type is chosen at run time.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/data/dataset.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Owns any data set. Each call is a virtual call, which is little beside the decoding of an image. AnyDataset always
// models LabelledDataset: ask labelled() before an objective reads labels.
class AnyDataset {
 public:
  template <Dataset Images>
  explicit AnyDataset(Images images) : held_(std::make_unique<Held<Images>>(std::move(images))) {}

  [[nodiscard]] int size() const { return held_->size(); }
  [[nodiscard]] ImageView decode(int i, Image& scratch) const { return held_->decode(i, scratch); }
  // As decode, if the data set does not scale.
  [[nodiscard]] ScaledImage decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const {
    return held_->decode_scaled(i, scratch, choose);
  }
  [[nodiscard]] bool labelled() const { return held_->labelled(); }
  // The label of image i; 0 if the data set has none.
  [[nodiscard]] int label(int i) const { return held_->label(i); }
  // The name of image i; empty if the data set has none.
  [[nodiscard]] std::string name(int i) const { return held_->name(i); }
  // True if decoding an image reads no file.
  [[nodiscard]] bool in_memory() const { return held_->in_memory(); }

 private:
  struct Any {
    virtual ~Any() = default;
    [[nodiscard]] virtual int size() const = 0;
    [[nodiscard]] virtual ImageView decode(int i, Image& scratch) const = 0;
    [[nodiscard]] virtual ScaledImage decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const = 0;
    [[nodiscard]] virtual bool labelled() const = 0;
    [[nodiscard]] virtual int label(int i) const = 0;
    [[nodiscard]] virtual std::string name(int i) const = 0;
    [[nodiscard]] virtual bool in_memory() const = 0;
  };
  template <class Images>
  struct Held final : Any {
    explicit Held(Images of) : images(std::move(of)) {}
    [[nodiscard]] int size() const override { return images.size(); }
    [[nodiscard]] ImageView decode(int i, Image& scratch) const override { return images.decode(i, scratch); }
    [[nodiscard]] ScaledImage decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const override {
      if constexpr (ScalingDataset<Images>)
        return images.decode_scaled(i, scratch, choose);
      else
        return not_scaled(images.decode(i, scratch));
    }
    [[nodiscard]] bool labelled() const override {
      if constexpr (requires { images.labelled(); })
        return images.labelled();
      else
        return LabelledDataset<Images>;
    }
    [[nodiscard]] int label(int i) const override {
      if constexpr (LabelledDataset<Images>)
        return images.label(i);
      else
        return 0;
    }
    [[nodiscard]] std::string name(int i) const override {
      if constexpr (requires { images.name(i); })
        return images.name(i);
      else
        return {};
    }
    [[nodiscard]] bool in_memory() const override {
      if constexpr (requires { Images::in_memory; })
        return Images::in_memory;
      else
        return false;
    }
    Images images;
  };

  std::unique_ptr<const Any> held_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
