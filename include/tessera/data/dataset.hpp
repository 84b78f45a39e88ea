// The concepts of data sets (docs/writing-a-dataset.md).
#pragma once

#include <fmt/format.h>

#include <concepts>
#include <functional>
#include <string>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The denominator of the scale at which an image of height x width pixels is decoded: 1, 2, 4 or 8.
using ScaleChoice = std::function<int(int height, int width)>;

// An image that was decoded at 1/denominator of its size of height x width pixels, each side rounded up.
struct ScaledImage {
  ImageView pixels;
  int height, width, denominator;
};
[[nodiscard]] inline ScaledImage not_scaled(ImageView image) {
  return {image, image.height, image.width, 1};
}

// A data set of images. Many threads call decode and label at the same time, each with a scratch of its own.
//
// struct Pictures {
//   int size() const;                               // number of images
//   ImageView decode(int i, Image& scratch) const;  // image i, 0 <= i < size(), in memory of the data set or scratch
//   int label(int i) const;                         // of a LabelledDataset: 0, 1, ...
//   bool labelled() const;                          // optional, of a LabelledDataset; false: labels mean nothing
//   std::string name(int i) const;                  // optional; by names and labels a resumed run knows its data
//   static constexpr bool in_memory = true;         // optional; true: decode reads no file
//   // Optional: image i at 1/n of its size, where n = choose(height, width) is asked for the size that decode gives.
//   An
//   // image that cannot be scaled is as decode gives it.
//   ScaledImage decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const;
// };
template <class Candidate>
concept Dataset = requires(const Candidate& images, int i, Image& scratch) {
  { images.size() } -> std::convertible_to<int>;
  { images.decode(i, scratch) } -> std::convertible_to<ImageView>;
};

template <class Candidate>
concept LabelledDataset = Dataset<Candidate> && requires(const Candidate& images, int i) {
  { images.label(i) } -> std::convertible_to<int>;
};

template <class Candidate>
concept ScalingDataset = Dataset<Candidate> &&
    requires(const Candidate& images, int i, Image& scratch, const ScaleChoice& choose) {
  { images.decode_scaled(i, scratch, choose) } -> std::convertible_to<ScaledImage>;
};

// Throws Error unless image i has pixels and 1 or `channels` channels.
inline void check_pixels(ImageView image, int i, int channels) {
  if (image.height < 1 || image.width < 1 || (image.channels != 1 && image.channels != channels))
    fail(
        "image {} has {} x {} pixels of {} channel(s): views of {} channel(s) cannot be made of it; decode must give "
        "grey images or images of as many channels",
        i, image.height, image.width, image.channels, channels);
}

// Image i of a data set. Throws Error unless it has pixels and 1 or `channels` channels.
template <Dataset Images>
[[nodiscard]] ImageView decoded(const Images& images, int i, int channels, Image& scratch) {
  const ImageView image = images.decode(i, scratch);
  check_pixels(image, i, channels);
  return image;
}

// Throws Error that names the first image whose label is none of 0, ..., classes - 1.
template <Dataset Images>
void check_labels(const Images& images, int classes) {
  int wrong = -1, largest = 0;
  for (int i = 0; i < images.size(); ++i) {
    const int label = images.label(i);
    largest = larger(largest, label);
    if (wrong < 0 && (label < 0 || label >= classes)) wrong = i;
  }
  if (wrong < 0) return;
  fail("image {} of the data set has the label {}, but the objective has {} classes, 0 to {}: {}", wrong,
       images.label(wrong), classes, classes - 1,
       largest < classes ? std::string("number the labels from 0")
                         : fmt::format("give the objective {} classes, or the data set other labels", largest + 1));
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
