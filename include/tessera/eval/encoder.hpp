// Features of images by the encoder of a checkpoint, for programs that want only those. Needs nlohmann-json
// (tessera::io).
#pragma once

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>
#include <xtensor/xtensor.hpp>

#include "tessera/comm/serial.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/io/safetensors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace eval {

struct EncoderOptions {
  int threads = 0;                                        // 0: every processor
  int batch = 0;                                          // images at once; 0: as many as the training run had at once
  std::optional<std::string> prefix = {};                 // in front of the encoder's tensors; none: found in the file
  std::optional<data::Normalization> normalization = {};  // none: the run's, or ImageNet's
};

// A trained encoder of type Model on the processors of this machine. Any number of threads may call it; their calls
// take turns, since each uses all of the encoder's threads.
template <class Model>
class Encoder {
 public:
  using Image = typename Model::Image;
  static constexpr int width = Model::out;

  // Reads the encoder's tensors from a safetensors file by their public names. Throws Error that names the file and the
  // tensor that is missing or has another shape, or if there is too little memory.
  explicit Encoder(const std::filesystem::path& path, const EncoderOptions& options = {}) : backend_(options.threads) {
    const io::Safetensors file(path);
    normalization_ = options.normalization ? *options.normalization : normalization_in(file, path.string());
    data::check_normalization(normalization_, Image::channels);
    const std::string prefix = options.prefix ? *options.prefix : prefix_in(file, path.string());
    for (const Entry& entry : Layout<Model>::entries) {
      float* const to = (entry.role == Role::statistic ? statistics_ : parameters_).data() + entry.offset;
      file.read_into<float>(
          prefix + std::string(entry.name.view()),
          std::vector<std::int64_t>(entry.shape.extents.begin(), entry.shape.extents.begin() + entry.shape.rank),
          std::span<float>(to, static_cast<std::size_t>(entry.size())));
    }
    batch_ = options.batch > 0 ? options.batch : batch_in(file);
    encode(nullptr, nullptr, batch_);
    backend_.arena().commit();
    backend_.choose_products([] {});
  }

  [[nodiscard]] const data::Normalization& normalization() const noexcept { return normalization_; }

  // features (images x width) of images (images x height x width x channels), resized and cropped as at evaluation.
  [[nodiscard]] xt::xtensor<float, 2> operator()(const xt::xtensor<std::uint8_t, 4>& images) const {
    return (*this)(Pixels{images});
  }

  // features (images x width) of a data set.
  template <data::Dataset Images>
  [[nodiscard]] xt::xtensor<float, 2> operator()(const Images& images) const {
    const auto count = static_cast<std::size_t>(images.size());
    xt::xtensor<float, 2> features({count, static_cast<std::size_t>(width)});
    const std::lock_guard lock(mutex_);
    std::vector<float> pixels(static_cast<std::size_t>(smaller(batch_, images.size())) * Model::in);
    for (int first = 0; first < images.size(); first += batch_) {
      const int rows = smaller(batch_, images.size() - first);
      prepare(images, first, rows, pixels.data());
      encode(pixels.data(), features.data() + index{first} * width, rows);
    }
    return features;
  }

 private:
  // An array of images as a data set.
  struct Pixels {
    const xt::xtensor<std::uint8_t, 4>& images;
    [[nodiscard]] int size() const { return static_cast<int>(images.shape(0)); }
    [[nodiscard]] data::ImageView decode(int i, data::Image&) const {
      const int height = static_cast<int>(images.shape(1)), columns = static_cast<int>(images.shape(2));
      const int channels = static_cast<int>(images.shape(3));
      return {images.data() + index{i} * height * columns * channels, height, columns, channels};
    }
  };

  template <class Images>
  void prepare(const Images& images, int first, int count, float* to) const {
    backend_.pool().for_pieces(count, 8, [&](index from, index last, int) {
      data::AugmentScratch scratch;
      data::evaluation_batch(images, first + static_cast<int>(from), static_cast<int>(last - from), Image::size,
                             Image::channels, normalization_, to + from * Model::in, scratch);
    });
  }

  void encode(const float* pixels, float* features, index rows) const {  // NOLINT(readability-non-const-parameter)
    comm::Serial alone;
    Context<cpu::Backend<float>, comm::Serial> context{backend_, alone, Mode::evaluate};
    Model::encode(context, bind<Model>(parameters_.data(), statistics_.data()),
                  Rows<const float, Model::in>{pixels, rows}, Rows<float, Model::out>{features, rows});
  }

  // The prefix of "patch_embed.": metadata of a checkpoint has it, other files are searched for it.
  [[nodiscard]] static std::string prefix_in(const io::Safetensors& file, const std::string& path) {
    const auto with_dot = [](const std::string& name) { return name.empty() ? name : name + "."; };
    if (const auto said = file.metadata().find("encoder"); said != file.metadata().end()) return with_dot(said->second);
    const std::string first = std::string(Layout<Model>::entries[0].name.view());
    for (const char* prefix : {"base_encoder.", "", "module.base_encoder.", "module.", "backbone."})
      if (file.contains(prefix + first)) return prefix;
    fail("{}: holds no encoder of this kind: there is no tensor '{}', with or without 'base_encoder.'", path, first);
  }

  [[nodiscard]] static data::Normalization normalization_in(const io::Safetensors& file, const std::string& path) {
    const auto said = file.metadata().find("normalization");
    return said == file.metadata().end() ? data::imagenet_normalization : data::normalization_from(said->second, path);
  }

  // As many images as the run encodes at once, so that sums are taken in the same order and features are the run's to
  // the bit.
  [[nodiscard]] static int batch_in(const io::Safetensors& file) {
    constexpr int usual = 256, most = 1 << 13;
    int size = 0;
    if (const auto said = file.metadata().find("images_at_once"); said != file.metadata().end())
      std::from_chars(said->second.data(), said->second.data() + said->second.size(), size);
    else if (const auto images = file.metadata().find("batch_size"); images != file.metadata().end()) {
      std::from_chars(images->second.data(), images->second.data() + images->second.size(), size);
      size *= 2;  // version 0.1 had two views of every image
    }
    return size >= 1 && size <= most ? size : usual;
  }

  mutable std::mutex mutex_;
  mutable cpu::Backend<float> backend_;
  cpu::Buffer<float> parameters_{Layout<Model>::parameters}, statistics_{Layout<Model>::statistics};
  data::Normalization normalization_{};
  int batch_ = 0;
};

}  // namespace eval

using eval::Encoder;

}  // namespace TESSERA_ABI
}  // namespace tessera
