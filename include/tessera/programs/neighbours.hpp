// The pictures whose features are nearest to that of one picture, as text and as a page. Needs libjpeg-turbo, libpng,
// zlib, nlohmann-json and xtensor (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/thread_pool.hpp"
#include "tessera/data/any_dataset.hpp"
#include "tessera/data/color.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/io/file.hpp"
#include "tessera/programs/page.hpp"
#include "tessera/programs/thumbnail.hpp"
#include "tessera/train/features.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// A picture file as a data set of one image.
class QueryPicture {
 public:
  // channels: of the encoder; a coloured picture becomes grey for an encoder of grey images. Throws Error that names
  // the file if it cannot be read or decoded.
  QueryPicture(const std::filesystem::path& path, int channels) : name_(path.string()) {
    constexpr std::uintmax_t most_bytes = 1 << 30;
    const std::string file = io::read_file(path, most_bytes);
    data::decode_picture(std::as_bytes(std::span(file)), name_, picture_);
    seen_ = picture_;
    if (channels == 1) make_grey(seen_);
  }

  [[nodiscard]] static int size() { return 1; }
  [[nodiscard]] data::ImageView decode(int, data::Image&) const { return seen_; }
  [[nodiscard]] const std::string& name(int) const { return name_; }
  // In its own colours.
  [[nodiscard]] const data::Image& picture() const { return picture_; }

 private:
  static void make_grey(data::Image& image) {
    if (image.channels == 1) return;
    data::to_grayscale(image);
    data::Image grey;
    grey.resize(image.height, image.width, 1);
    for (std::size_t p = 0; p < grey.pixels.size(); ++p) grey.pixels[p] = image.pixels[3 * p];
    image = std::move(grey);
  }

  std::string name_;
  data::Image picture_, seen_;
};

// The page of the pictures `found` of a data set, nearest first, beside the picture that was asked for.
[[nodiscard]] inline Page neighbours_page(const QueryPicture& query, const data::AnyDataset& images,
                                          const std::vector<std::string>& names,
                                          const std::vector<eval::Neighbour<float>>& found) {
  Page page;
  page.title = "Nearest neighbours";
  page.subtitle = fmt::format("of {} among {} pictures", query.name(0), images.size());
  Gallery gallery{"",
                  "Left: the picture that was asked for. Right: the pictures whose features are most similar, with the "
                  "cosine similarity.",
                  {{thumbnail(query.picture(), query.name(0))}}};
  data::Image scratch;
  for (const auto& one : found)
    gallery.rows[0].push_back(
        thumbnail(images.decode(one.row, scratch),
                  fmt::format("{:.3f} {}", one.similarity, names[static_cast<std::size_t>(one.row)])));
  page.galleries = {std::move(gallery)};
  return page;
}

// The found pictures as lines: place, similarity, name.
[[nodiscard]] inline std::string neighbours_text(const std::vector<std::string>& names,
                                                 const std::vector<eval::Neighbour<float>>& found) {
  std::string text;
  for (std::size_t place = 0; place < found.size(); ++place)
    text += fmt::format("{:4}  {:.4f}  {}\n", place + 1, found[place].similarity,
                        names[static_cast<std::size_t>(found[place].row)]);
  return text;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
