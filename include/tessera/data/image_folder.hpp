// A folder of pictures as a data set: POSIX. Needs libjpeg-turbo and libpng (CMake target tessera::image).
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// The end of the name says that the file should be a picture; its content decides.
[[nodiscard]] inline bool is_named_as_picture(const std::string& name) {
  std::string end = name.substr(name.rfind('.') == std::string::npos ? name.size() : name.rfind('.'));
  std::transform(end.begin(), end.end(), end.begin(), [](unsigned char c) { return std::tolower(c); });
  return end == ".jpg" || end == ".jpeg" || end == ".png";
}

// The pictures in a folder and in those within, behind symbolic links too, as (folder, name) in torchvision's order: by
// the folder's path, then by name. Paths are relative to `root`.
class PictureNames {
 public:
  using Name = std::pair<std::string, std::string>;

  explicit PictureNames(std::filesystem::path root) : root_(std::move(root)) {}

  [[nodiscard]] std::vector<Name> below(const std::string& folder) {
    found_.clear();
    walk(folder);
    std::sort(found_.begin(), found_.end());
    return std::move(found_);
  }
  // The folders of the first level, sorted.
  [[nodiscard]] std::vector<std::string> folders() const {
    std::vector<std::string> folders;
    for (const auto& entry : std::filesystem::directory_iterator(root_))
      if (entry.is_directory()) folders.push_back(entry.path().filename());
    std::sort(folders.begin(), folders.end());
    return folders;
  }

 private:
  void walk(const std::string& folder) {
    struct stat here {};
    if (::stat((root_ / folder).c_str(), &here) != 0) fail("{}: cannot be read", (root_ / folder).string());
    const std::pair<dev_t, ino_t> place{here.st_dev, here.st_ino};
    if (std::find(way_.begin(), way_.end(), place) != way_.end()) return;  // a link to a folder above
    way_.push_back(place);
    for (const auto& entry : std::filesystem::directory_iterator(root_ / folder)) {
      const std::string name = entry.path().filename();
      if (entry.is_directory())
        walk(folder.empty() ? name : folder + "/" + name);
      else if (is_named_as_picture(name))
        found_.emplace_back(folder, name);
    }
    way_.pop_back();
  }

  std::filesystem::path root_;
  std::vector<std::pair<dev_t, ino_t>> way_;  // from the root to the folder that is read
  std::vector<Name> found_;
};

}  // namespace detail

struct ImageFolderOptions {
  bool labels = true;  // false: folders are no classes
  Orientation orientation = Orientation::upright;
};

// The pictures (.jpg, .jpeg, .png) in a folder and in those within, decoded when they are asked for. The folders of the
// first level that hold pictures are the classes, in sorted order as torchvision's, and pictures beside them are left
// out; where there are none, there are no labels.
class ImageFolder {
 public:
  // Reads names alone. Throws Error that names the folder if it cannot be read or holds no picture.
  explicit ImageFolder(std::filesystem::path folder, const ImageFolderOptions& options = {})
      : folder_(std::move(folder)), orientation_(options.orientation) {
    try {
      detail::PictureNames names(folder_);
      if (options.labels) add_classes(names);
      if (names_.empty()) add(names.below(""), 0);
    } catch (const std::filesystem::filesystem_error& problem) {
      fail("{}: {}", problem.path1().string(), problem.code().message());
    }
    if (names_.empty())
      fail("{}: there is no picture in it (.jpg, .jpeg, .png), nor in a folder within", folder_.string());
    if (names_.size() > INT_MAX) fail("{}: holds more than {} pictures", folder_.string(), INT_MAX);
  }

  [[nodiscard]] int size() const { return static_cast<int>(names_.size()); }
  [[nodiscard]] bool labelled() const { return !classes_.empty(); }
  // The names of the labels 0, 1, ...; none without labels.
  [[nodiscard]] const std::vector<std::string>& classes() const { return classes_; }
  // The class of picture i; 0 without labels.
  [[nodiscard]] int label(int i) const { return labels_[static_cast<std::size_t>(i)]; }
  // The path of picture i below the folder.
  [[nodiscard]] const std::string& name(int i) const { return names_[static_cast<std::size_t>(i)]; }

  // Decodes picture i into `scratch`. Throws Error that names the file if it cannot be read or decoded.
  [[nodiscard]] ImageView decode(int i, Image& scratch) const { return decode_scaled(i, scratch, {}); }
  // As decode; a JPEG file at 1/n of its size, where n = choose(height, width).
  [[nodiscard]] ImageView decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const {
    constexpr std::uintmax_t most_bytes = 1 << 30;
    const std::filesystem::path path = folder_ / name(i);
    const std::string file = io::read_file(path, most_bytes);
    decode_picture(std::as_bytes(std::span(file)), path.string(), scratch, orientation_, choose);
    return scratch;
  }

 private:
  void add_classes(detail::PictureNames& names) {
    for (const std::string& folder : names.folders()) {
      const auto pictures = names.below(folder);
      if (pictures.empty()) continue;
      add(pictures, static_cast<int>(classes_.size()));
      classes_.push_back(folder);
    }
  }
  void add(const std::vector<detail::PictureNames::Name>& pictures, int label) {
    for (const auto& [folder, name] : pictures) names_.push_back(folder.empty() ? name : folder + "/" + name);
    labels_.resize(names_.size(), label);
  }

  std::filesystem::path folder_;
  Orientation orientation_;
  std::vector<std::string> names_, classes_;
  std::vector<int> labels_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
