// Files of pictures as a data set: POSIX. Needs libjpeg-turbo and libpng (CMake target tessera::image).
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
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

// Pictures that are decoded when they are asked for: their paths below a folder, and their labels, if they have any.
// ImageFolder and ImageList find them.
class ImageFiles {
 public:
  [[nodiscard]] int size() const { return static_cast<int>(names_.size()); }
  [[nodiscard]] bool labelled() const { return !classes_.empty(); }
  // The names of the labels 0, 1, ...; none without labels.
  [[nodiscard]] const std::vector<std::string>& classes() const { return classes_; }
  // The class of picture i; 0 without labels.
  [[nodiscard]] int label(int i) const { return labels_[static_cast<std::size_t>(i)]; }
  // Pictures that were found beside the folders of classes, and are left out.
  [[nodiscard]] int left_out() const { return left_out_; }
  // The path of picture i below the folder.
  [[nodiscard]] const std::string& name(int i) const { return names_[static_cast<std::size_t>(i)]; }

  // Decodes picture i into `scratch`. Throws Error that names the file if it cannot be read or decoded, or if it is not
  // the file that it was the first time.
  [[nodiscard]] ImageView decode(int i, Image& scratch) const { return decode_scaled(i, scratch, {}).pixels; }
  // As decode; a JPEG file at 1/n of its size, where n = choose(height, width).
  [[nodiscard]] ScaledImage decode_scaled(int i, Image& scratch, const ScaleChoice& choose) const {
    const std::filesystem::path path = folder_ / name(i);
    const std::string file = read(i, path);
    ScaledImage chosen{{}, 0, 0, 0};
    const auto remember = [&](int height, int width) {
      chosen = {{}, height, width, choose(height, width)};
      return chosen.denominator;
    };
    decode_picture(std::as_bytes(std::span(file)), path.string(), scratch, orientation_,
                   choose ? ScaleChoice(std::ref(remember)) : ScaleChoice());
    if (chosen.denominator == 0) return not_scaled(scratch);
    chosen.pixels = scratch;
    return chosen;
  }

  // The pictures i for which wanted(i) is true, with the same labels.
  template <class Wanted>
  [[nodiscard]] ImageFiles part(Wanted&& wanted) const {
    ImageFiles part(folder_, orientation_);
    part.classes_ = classes_;
    part.left_out_ = left_out_;
    for (int i = 0; i < size(); ++i)
      if (wanted(i)) part.add(name(i), label(i));
    return part;
  }

 protected:
  ImageFiles(std::filesystem::path folder, Orientation orientation)
      : folder_(std::move(folder)), orientation_(orientation) {}

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  void add(std::string name, int label) {
    if (names_.size() == INT_MAX) fail("{}: more than {} pictures", folder_.string(), INT_MAX);
    if (name.find_first_of("\n\r") != std::string::npos)
      fail("{}: '{}' has a line break in its name; rename it", folder_.string(), name);
    names_.push_back(std::move(name));
    labels_.push_back(label);
    seen_.emplace_back(0);
  }
  void set_classes(std::vector<std::string> classes) { classes_ = std::move(classes); }
  void set_left_out(int pictures) { left_out_ = pictures; }

 private:
  // The bytes of picture i. A pipe is opened, too, without waiting for who writes it, and refused.
  [[nodiscard]] std::string read(int i, const std::filesystem::path& path) const {
    constexpr std::uintmax_t most_bytes = 1 << 30;
    const io::detail::Descriptor file(path, O_RDONLY | O_NONBLOCK);
    const std::uintmax_t size = file.size();
    if (size > most_bytes) fail("{}: holds {} bytes, more than the {} that are read", path.string(), size, most_bytes);
    const struct stat state = file.state();
    const std::uint64_t now = (static_cast<std::uint64_t>(state.st_mtim.tv_sec) * 1000000000 +
                               static_cast<std::uint64_t>(state.st_mtim.tv_nsec)) ^
                              size << 40 ^ 1;
    std::uint64_t before = 0;
    if (!seen_[static_cast<std::size_t>(i)].compare_exchange_strong(before, now) && before != now)
      fail("{}: has changed since it was read first", path.string());
    std::string bytes(static_cast<std::size_t>(size), '\0');
    file.read(0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

  std::filesystem::path folder_;
  Orientation orientation_;
  std::vector<std::string> names_, classes_;
  std::vector<int> labels_;
  int left_out_ = 0;
  mutable std::deque<std::atomic<std::uint64_t>> seen_;  // time and size of each file when it was read first, or 0
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
