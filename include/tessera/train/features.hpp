// Features and attention maps of a data set by the encoder of a trainer. Every rank encodes a share and has all.
#pragma once

#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/eval/knn.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Features of images, `width` to a row, with labels (empty if the data set has none).
struct FeatureSet {
  std::vector<float> values;
  std::vector<int> labels;
  index width;
  index rows = 0;

  [[nodiscard]] eval::Features<float> view() const { return {values.data(), rows, width}; }
};

// Attention weights of images (images*heads*tokens x tokens).
struct AttentionMaps {
  std::vector<float> values;
  int heads, tokens, grid;
};

namespace detail {

// Brings images [first, first + count) of a data set, as a network sees them at evaluation, to memory of the backend.
template <class Image, class Trainer, class Images>
void upload_images(Trainer& trainer, const Images& images, int first, int count,
                   const data::Normalization& normalization, typename Trainer::Scalar* to) {
  std::vector<float> pixels(static_cast<std::size_t>(count) * Image::values);
  data::AugmentScratch scratch;
  data::evaluation_batch(images, first, count, Image::size, Image::channels, normalization, pixels.data(), scratch);
  std::vector<typename Trainer::Scalar> stored;
  stored.reserve(pixels.size());
  for (const float value : pixels) stored.push_back(static_cast<typename Trainer::Scalar>(value));
  trainer.backend().upload(static_cast<index>(stored.size()), stored.data(), to);
}

template <class Trainer>
void download_floats(Trainer& trainer, const typename Trainer::Scalar* from, index count, float* to) {
  std::vector<typename Trainer::Scalar> stored(static_cast<std::size_t>(count));
  trainer.backend().download(count, from, stored.data());
  for (const auto& value : stored) *to++ = static_cast<float>(value);
}

}  // namespace detail

// Features of all images in evaluation mode. On all ranks.
template <class Trainer, data::Dataset Images>
[[nodiscard]] FeatureSet features_of(Trainer& trainer, const Images& images, const data::Normalization& normalization) {
  using Encoder = typename Trainer::Encoder;
  auto& communicator = trainer.communicator();
  const int count = images.size();
  FeatureSet set{std::vector<float>(static_cast<std::size_t>(count) * Encoder::out), {}, Encoder::out, count};
  const int most = static_cast<int>(trainer.images_at_once());
  using Buffer = typename Trainer::template Buffer<typename Trainer::Scalar>;
  const Buffer pixels(index{most} * Encoder::in), features(index{count} * Encoder::out);
  std::vector<index> displacements;
  for (int rank = 0; rank <= communicator.size(); ++rank)
    displacements.push_back(comm::even_displacement(count, communicator.size(), rank) * Encoder::out);
  const auto mine = displacements.begin() + communicator.rank();
  const int first = static_cast<int>(mine[0] / Encoder::out), last = static_cast<int>(mine[1] / Encoder::out);
  for (int at = first; at < last; at += most) {
    const int rows = last - at < most ? last - at : most;
    detail::upload_images<typename Encoder::Image>(trainer, images, at, rows, normalization, pixels.data());
    trainer.encode({pixels.data(), rows}, {features.data() + index{at} * Encoder::out, rows});
  }
  communicator.all_gather(trainer.backend(), features.data(), displacements);
  communicator.wait(trainer.backend());
  detail::download_floats(trainer, features.data(), features.size(), set.values.data());
  if constexpr (data::LabelledDataset<Images>)
    for (int i = 0; i < count; ++i) set.labels.push_back(images.label(i));
  return set;
}

// Attention weights of the encoder's last block for all images; at most trainer.images_at_once().
template <class Trainer, data::Dataset Images>
[[nodiscard]] AttentionMaps attention_of(Trainer& trainer, const Images& images,
                                         const data::Normalization& normalization) {
  using Encoder = typename Trainer::Encoder;
  const int count = images.size();
  AttentionMaps maps{{}, Encoder::heads, Encoder::tokens, Encoder::grid};
  maps.values.resize(static_cast<std::size_t>(count * Encoder::heads * Encoder::tokens * Encoder::tokens));
  using Buffer = typename Trainer::template Buffer<typename Trainer::Scalar>;
  const Buffer pixels(index{count} * Encoder::in), weights(static_cast<index>(maps.values.size()));
  detail::upload_images<typename Encoder::Image>(trainer, images, 0, count, normalization, pixels.data());
  trainer.attention({pixels.data(), count}, Encoder::depth - 1,
                    {weights.data(), index{count} * Encoder::heads * Encoder::tokens});
  detail::download_floats(trainer, weights.data(), weights.size(), maps.values.data());
  return maps;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
