// A text file that lists pictures as a data set. Needs libjpeg-turbo and libpng (CMake target tessera::image).
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image_files.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

struct ListedPicture {
  std::string path, label;  // the label is empty if the line has none
};

// The lines of a list: path, or path<TAB>label. Empty lines are left out, and a carriage return in front of a line's
// end. `name` is the list's. Throws Error that names the line.
[[nodiscard]] inline std::vector<ListedPicture> listed_pictures(std::string_view text, std::string_view name) {
  std::vector<ListedPicture> pictures;
  std::size_t line_number = 0, first = 0;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // UTF-8's mark
  while (!text.empty()) {
    ++line_number;
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t tab = line.find('\t');
    const std::string_view path = line.substr(0, tab);
    const std::string_view label = tab == std::string_view::npos ? std::string_view() : line.substr(tab + 1);
    if (line.find('\0') != std::string_view::npos)
      fail("{}: line {}: is no text: it has a zero byte", name, line_number);
    if (path.empty()) fail("{}: line {}: there is no path in front of the tab", name, line_number);
    if (tab != std::string_view::npos && (label.empty() || label.find('\t') != std::string_view::npos))
      fail("{}: line {}: '{}' is not path<TAB>label: there must be one tab, and a label behind it", name, line_number,
           line);
    if (pictures.empty()) first = line_number;
    if (!pictures.empty() && pictures.front().label.empty() != label.empty())
      fail("{}: line {} has {} label, but line {} has {}: all lines must be alike", name, line_number,
           label.empty() ? "no" : "a", first, label.empty() ? "one" : "none");
    pictures.push_back({std::string(path), std::string(label)});
  }
  return pictures;
}

// The names of the labels. If all are numbers of at most five digits, each is its own number, and numbers that no
// picture has are classes without pictures; otherwise the texts are sorted.
[[nodiscard]] inline std::vector<std::string> classes_of(const std::vector<ListedPicture>& pictures) {
  constexpr std::size_t most_digits = 5;
  std::vector<std::string> classes;
  int largest = -1;
  for (const ListedPicture& picture : pictures) {
    classes.push_back(picture.label);
    int number = 0;
    const char* const end = picture.label.data() + picture.label.size();
    const auto [stop, code] = std::from_chars(picture.label.data(), end, number);
    if (code != std::errc{} || stop != end || number < 0 || picture.label.size() > most_digits ||
        picture.label != std::to_string(number)) {
      largest = -2;
    } else if (largest > -2) {
      largest = largest > number ? largest : number;
    }
  }
  if (largest < 0) {
    std::sort(classes.begin(), classes.end());
    classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
    return classes;
  }
  classes.clear();
  for (int label = 0; label <= largest; ++label) classes.push_back(std::to_string(label));
  return classes;
}

}  // namespace detail

struct ImageListOptions {
  bool labels = true;  // false: labels in the list are not taken
  Orientation orientation = Orientation::upright;
  std::vector<std::string> classes = {};  // the names of the labels 0, 1, ...; none: those there are
};

// The pictures that a text file names, in its order: a line has a path, or path<TAB>label, where the path is absolute
// or starts at the list's folder. Labels are numbers, 0, 1, ..., or names, which are numbered in sorted order.
class ImageList : public ImageFiles {
 public:
  // Reads the list alone. Throws Error that names list and line if a line is wrong or its label none of
  // options.classes.
  explicit ImageList(const std::filesystem::path& list, const ImageListOptions& options = {})
      : ImageFiles(list.parent_path(), options.orientation) {
    constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 32;
    const std::vector<detail::ListedPicture> pictures =
        detail::listed_pictures(io::read_file(list, most_bytes), list.string());
    if (pictures.empty()) fail("{}: lists no picture; a line has a path, or path<TAB>label", list.string());
    if (!options.labels || pictures.front().label.empty()) {
      for (const detail::ListedPicture& picture : pictures) add(picture.path, 0);
      return;
    }
    const auto classes = options.classes.empty() ? detail::classes_of(pictures) : options.classes;
    std::map<std::string_view, int> number;
    for (const std::string& one : classes) number.emplace(one, static_cast<int>(number.size()));
    for (const detail::ListedPicture& picture : pictures) {
      const auto at = number.find(picture.label);
      if (at == number.end())
        fail("{}: {} has the label '{}', which is none of the {} of the training pictures", list.string(), picture.path,
             picture.label, classes.size());
      add(picture.path, at->second);
    }
    set_classes(classes);
  }
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
