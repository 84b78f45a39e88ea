// A folder of pictures as a data set: POSIX. Needs libjpeg-turbo and libpng (CMake target tessera::image).
#pragma once

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image_files.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// The end of the name says that the file should be a picture; its content decides.
[[nodiscard]] inline bool is_named_as_picture(const std::string& name) {
  std::string end = name.substr(name.rfind('.') == std::string::npos ? name.size() : name.rfind('.'));
  std::transform(end.begin(), end.end(), end.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::find(picture_endings.begin(), picture_endings.end(), end) != picture_endings.end();
}

[[nodiscard]] inline std::string path_below(const std::string& folder, const std::string& name) {
  std::string path = folder;
  if (!path.empty()) path += '/';
  return path += name;
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
  // The pictures of the root itself.
  [[nodiscard]] int count_beside() const {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(root_))
      if (is_named_as_picture(entry.path().filename()) && !entry.is_directory()) ++count;
    return count;
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
        walk(path_below(folder, name));
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
  std::vector<std::string> classes = {};  // the folders that are the labels 0, 1, ...; none: those there are, sorted
};

// The pictures (files whose names have one of picture_endings) in a folder and in those within. The folders of the
// first level that hold pictures are the classes, in sorted order as torchvision's, and pictures beside them are left
// out; where there are none, there are no labels.
class ImageFolder : public ImageFiles {
 public:
  // Reads names alone. Throws Error that names the folder if it cannot be read, holds no picture, or has a class that
  // is none of options.classes.
  explicit ImageFolder(const std::filesystem::path& folder, const ImageFolderOptions& options = {})
      : ImageFiles(folder, options.orientation) {
    try {
      detail::PictureNames names(folder);
      if (options.labels) add_classes(names, options.classes);
      if (size() == 0) add_all(names.below(""), 0);
    } catch (const std::filesystem::filesystem_error& problem) {
      fail("{}: {}", problem.path1().string(), problem.code().message());
    }
    if (size() == 0)
      fail("{}: there is no picture in it ({}), nor in a folder within", folder.string(),
           fmt::join(picture_endings, ", "));
  }

 private:
  void add_classes(detail::PictureNames& names, std::vector<std::string> classes) {
    const bool given = !classes.empty();
    for (const std::string& class_folder : names.folders()) {
      const auto pictures = names.below(class_folder);
      if (pictures.empty()) continue;
      if (!given) classes.push_back(class_folder);
      const auto at = std::find(classes.begin(), classes.end(), class_folder);
      if (at == classes.end())
        fail("{}: is none of the {} classes ({}, ...): the training pictures have no such folder",
             (folder() / class_folder).string(), classes.size(), classes.front());
      add_all(pictures, static_cast<int>(at - classes.begin()));
    }
    if (size() == 0) return;
    set_classes(std::move(classes));
    set_left_out(names.count_beside());
  }
  void add_all(const std::vector<detail::PictureNames::Name>& pictures, int label) {
    for (const auto& [folder, name] : pictures) add(detail::path_below(folder, name), label);
  }
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
