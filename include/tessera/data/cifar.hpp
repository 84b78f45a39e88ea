// The binary files of CIFAR-10 and CIFAR-100.
#pragma once

#include <fmt/format.h>

#include <array>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The labels of CIFAR-100: its 100 classes, or the 20 groups that they form. CIFAR-10 has fine labels alone.
enum class CifarLabels { fine, coarse };

namespace detail {

// A byte of a record, less than `classes`; the classes have their names in a file.
struct CifarLabel {
  int classes;
  const char* names;
};

// The files of a data set in its binary form. A record is `labels` bytes of labels, then the planes of an image.
struct CifarFormat {
  const char* name;
  const char* folder;                // which its archive unpacks to
  std::array<const char*, 5> train;  // the first `train_files` count
  int train_files;
  const char* test;
  std::array<CifarLabel, 2> label;  // the first `labels` count; the last is the fine one
  int labels;

  static constexpr int side = 32, channels = 3, plane = side * side, pixels = channels * plane;

  [[nodiscard]] std::size_t record() const { return static_cast<std::size_t>(labels + pixels); }
  [[nodiscard]] std::vector<std::string> files(const std::string& split) const {
    if (split == "test") return {test};
    return {train.begin(), train.begin() + train_files};
  }
};

inline constexpr CifarFormat cifar_10{
    "CIFAR-10",
    "cifar-10-batches-bin",
    {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
    5,
    "test_batch.bin",
    {{{10, "batches.meta.txt"}}},
    1};
inline constexpr CifarFormat cifar_100{"CIFAR-100",
                                       "cifar-100-binary",
                                       {"train.bin"},
                                       1,
                                       "test.bin",
                                       {{{20, "coarse_label_names.txt"}, {100, "fine_label_names.txt"}}},
                                       2};

struct CifarPlace {
  const CifarFormat* format;
  std::filesystem::path folder;
};

// The data sets of which a file is in the folder, or in the folder within that their archives unpack to.
[[nodiscard]] inline std::vector<CifarPlace> cifar_places(const std::filesystem::path& folder) {
  const auto exists = [](const std::filesystem::path& path) {
    std::error_code none;
    return std::filesystem::exists(path, none);
  };
  std::vector<CifarPlace> found;
  for (const CifarFormat* const format : {&cifar_10, &cifar_100})
    for (const std::filesystem::path& place : {folder, folder / format->folder})
      if (exists(place / format->train[0]) || exists(place / format->test)) {
        found.push_back({format, place});
        break;
      }
  return found;
}

}  // namespace detail

// CIFAR-10 or CIFAR-100: RGB images of 32 x 32 pixels with labels, held in memory (3072 bytes an image).
class Cifar {
 public:
  static constexpr bool in_memory = true;

  // True if the folder, or the one within that an archive of CIFAR unpacks to, holds a file of images.
  [[nodiscard]] static bool is_in(const std::filesystem::path& folder) { return !detail::cifar_places(folder).empty(); }

  // Reads the split "train" or "test" of the data set that is_in the folder. Throws Error with the file, the record
  // and the wrong value.
  Cifar(const std::filesystem::path& folder, const std::string& split, CifarLabels labels = CifarLabels::fine) {
    if (split != "train" && split != "test")
      fail("{}: CIFAR has the splits 'train' and 'test', but not '{}'", folder.string(), split);
    const auto places = detail::cifar_places(folder);
    if (places.empty())
      fail(
          "{}: holds no file of CIFAR-10 (data_batch_1.bin) nor of CIFAR-100 (train.bin); unpack its binary version "
          "there",
          folder.string());
    if (places.size() > 1)
      fail("{}: holds files of CIFAR-10 and of CIFAR-100; name the folder {} or {} that holds only one of them",
           folder.string(), detail::cifar_10.folder, detail::cifar_100.folder);
    const auto& [format, place] = places.front();
    if (labels == CifarLabels::coarse && format->labels == 1)
      fail("{}: holds CIFAR-10, which has no coarse labels; ask for its fine ones", place.string());
    const int byte = labels == CifarLabels::coarse ? 0 : format->labels - 1;
    reserve(*format, place, split);
    for (const std::string& file : format->files(split)) read(*format, place / file, byte);
    read_names(place / format->label[static_cast<std::size_t>(byte)].names,
               format->label[static_cast<std::size_t>(byte)].classes);
  }

  [[nodiscard]] int size() const { return static_cast<int>(labels_.size()); }

  // Image i, 0 <= i < size(), in memory of the data set.
  [[nodiscard]] ImageView decode(int i, Image&) const {
    return {pixels_.data() + static_cast<std::size_t>(i) * detail::CifarFormat::pixels, detail::CifarFormat::side,
            detail::CifarFormat::side, detail::CifarFormat::channels};
  }
  [[nodiscard]] int label(int i) const { return labels_[static_cast<std::size_t>(i)]; }
  // The names of the labels 0, 1, ...; none where the file of names is missing.
  [[nodiscard]] const std::vector<std::string>& classes() const { return classes_; }

 private:
  // Makes room for the images of all files, whose sizes say how many they are.
  void reserve(const detail::CifarFormat& format, const std::filesystem::path& place, const std::string& split) {
    std::uintmax_t images = 0;
    for (const std::string& file : format.files(split)) {
      const std::filesystem::path path = place / file;
      if (!std::filesystem::exists(path))
        fail("{}: there is no such file, which the split '{}' of {} needs; unpack its archive again", path.string(),
             split, format.name);
      const std::uintmax_t bytes = io::detail::Descriptor(path, O_RDONLY).size();
      if (bytes == 0 || bytes % format.record() != 0)
        fail("{}: has {} bytes, but a file of {} holds records of {} bytes; unpack its archive again", path.string(),
             bytes, format.name, format.record());
      images += bytes / format.record();
    }
    if (images > INT_MAX) fail("{}: holds {} images, more than {}", place.string(), images, INT_MAX);
    try {
      pixels_.reserve(static_cast<std::size_t>(images) * detail::CifarFormat::pixels);
      labels_.reserve(static_cast<std::size_t>(images));
    } catch (const std::bad_alloc&) {
      fail("not enough memory: {} holds {} images, which are read into memory", place.string(), images);
    }
  }

  void read(const detail::CifarFormat& format, const std::filesystem::path& path, int byte) {
    constexpr std::size_t at_once = 128;
    const io::detail::Descriptor file(path, O_RDONLY);
    const std::size_t size = format.record(), records = static_cast<std::size_t>(file.size()) / size;
    std::vector<std::uint8_t> buffer(at_once * size);
    for (std::size_t first = 0; first < records; first += at_once) {
      const std::size_t count = smaller(at_once, records - first);
      file.read(first * size, std::as_writable_bytes(std::span(buffer.data(), count * size)));
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t* const record = buffer.data() + i * size;
        check_labels(format, path, first + i, record);
        labels_.push_back(record[byte]);
        add_pixels(record + format.labels);
      }
    }
  }

  static void check_labels(const detail::CifarFormat& format, const std::filesystem::path& path, std::size_t number,
                           const std::uint8_t* record) {
    for (int k = 0; k < format.labels; ++k)
      if (const int classes = format.label[static_cast<std::size_t>(k)].classes; record[k] >= classes)
        fail("{}: record {} has the label {} in byte {}, but {} has the labels 0 to {} there; unpack its archive again",
             path.string(), number, record[k], k, format.name, classes - 1);
  }

  // Adds the planes of an image, channels interleaved.
  void add_pixels(const std::uint8_t* planes) {
    using Format = detail::CifarFormat;
    pixels_.resize(pixels_.size() + Format::pixels);
    std::uint8_t* to = pixels_.data() + pixels_.size() - Format::pixels;
    for (int at = 0; at < Format::plane; ++at)
      for (int c = 0; c < Format::channels; ++c) *to++ = planes[c * Format::plane + at];
  }

  // Reads a name from each line, if there is the file.
  void read_names(const std::filesystem::path& path, int classes) {
    if (!std::filesystem::exists(path)) return;
    constexpr std::uintmax_t most_bytes = 1 << 16;
    std::string line;
    for (const char c : io::read_file(path, most_bytes) + "\n") {
      if (c != '\n' && c != '\r')
        line += c;
      else if (!line.empty())
        classes_.push_back(std::exchange(line, {}));
    }
    if (classes_.size() != static_cast<std::size_t>(classes))
      fail("{}: has {} names of classes, not {}; unpack the archive again, or remove the file", path.string(),
           classes_.size(), classes);
  }

  std::vector<std::uint8_t> pixels_, labels_;
  std::vector<std::string> classes_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
