// A data set from arrays in memory or in NumPy's .npy files.
#pragma once

#include <fmt/format.h>

#include <climits>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>
#include <xtensor/xarray.hpp>
#include <xtensor/xtensor.hpp>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"
#include "tessera/io/npy.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// Images of one size in one array (images x height x width x channels, or images x height x width of grey ones), held
// in memory, with a label for each or none.
class ArrayDataset {
 public:
  static constexpr bool in_memory = true;

  // True if the folder holds train_images.npy.
  [[nodiscard]] static bool is_in(const std::filesystem::path& folder) {
    std::error_code none;
    return std::filesystem::exists(folder / "train_images.npy", none);
  }

  // Takes an array of 3 or 4 dimensions, and labels from any range of integers. Throws Error for an empty array, more
  // than most_channels channels, or labels that are negative or not one for each image.
  template <std::size_t rank, class Integers = std::vector<int>>
  requires(rank == 3 || rank == 4) explicit ArrayDataset(xt::xtensor<std::uint8_t, rank> images,
                                                         const Integers& labels = {}) {
    take(std::move(images), "the array of images");
    add(labels, "the array of labels");
  }

  // Reads `folder`/`split`_images.npy and, if it is there, `folder`/`split`_labels.npy; from_files says what they hold.
  ArrayDataset(const std::filesystem::path& folder, const std::string& split)
      : ArrayDataset(from_files(folder / (split + "_images.npy"), labels_in(folder, split))) {}

  // Reads images of 8-bit unsigned integers and, unless its path is empty, an array of labels of any type of integers.
  // Throws Error with the file and the wrong value.
  [[nodiscard]] static ArrayDataset from_files(const std::filesystem::path& images,
                                               const std::filesystem::path& labels = {}) {
    ArrayDataset read;
    read.take(io::read_npy<std::uint8_t>(images), images.string());
    if (labels.empty()) return read;
    const auto values = io::read_npy_integers<int>(labels);
    if (values.dimension() != 1)
      fail("{}: has the shape ({}); labels have one dimension", labels.string(), fmt::join(values.shape(), ", "));
    read.add(values, labels.string());
    if (!read.labelled()) fail("{}: holds no label", labels.string());
    return read;
  }

  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] bool labelled() const { return !labels_.empty(); }
  // The label of image i; 0 without labels.
  [[nodiscard]] int label(int i) const { return labelled() ? labels_[static_cast<std::size_t>(i)] : 0; }

  // Image i, 0 <= i < size(), in memory of the data set.
  [[nodiscard]] ImageView decode(int i, Image&) const {
    return {pixels_.data() + index{i} * height_ * width_ * channels_, height_, width_, channels_};
  }

 private:
  ArrayDataset() = default;

  // `where` names the array in messages, here and below.
  template <class Array>
  void take(Array&& images, const std::string& where) {
    const auto wrong = [&](const std::string& rule) {
      fail("{}: has the shape ({}); {}", where, fmt::join(images.shape(), ", "), rule);
    };
    const auto& shape = images.shape();
    if (shape.size() != 3 && shape.size() != 4)
      wrong("images have 4 dimensions (images, height, width, channels), or 3 if they are grey");
    if (images.size() == 0 || shape[0] > INT_MAX) wrong("there must be an image, and each must have pixels");
    constexpr std::size_t largest_image = 1 << 26;
    if (shape[1] > largest_image || shape[2] > largest_image / shape[1])
      wrong(fmt::format("an image has at most {} pixels", largest_image));
    if (shape.size() == 4 && shape[3] > most_channels)
      wrong(fmt::format("its last dimension is that of channels, of which there are at most {}", most_channels));
    size_ = static_cast<int>(shape[0]);
    height_ = static_cast<int>(shape[1]);
    width_ = static_cast<int>(shape[2]);
    channels_ = shape.size() == 4 ? static_cast<int>(shape[3]) : 1;
    pixels_ = std::move(images.storage());
  }

  template <class Integers>
  void add(const Integers& labels, const std::string& where) {
    for (const auto label : labels) {
      if (!std::in_range<int>(label) || label < 0)
        fail("{}: number {} is {}; labels are 0, 1, ...", where, labels_.size(), label);
      labels_.push_back(static_cast<int>(label));
    }
    if (labelled() && labels_.size() != static_cast<std::size_t>(size_))
      fail("{}: holds {} labels for {} images; give one label for each", where, labels_.size(), size_);
  }

  [[nodiscard]] static std::filesystem::path labels_in(const std::filesystem::path& folder, const std::string& split) {
    const std::filesystem::path path = folder / (split + "_labels.npy");
    return std::filesystem::exists(path) ? path : std::filesystem::path();
  }

  xt::xarray<std::uint8_t>::storage_type pixels_;
  int size_ = 0, height_ = 0, width_ = 0, channels_ = 0;
  std::vector<int> labels_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
