// IDX files, the format of MNIST, plain or compressed by gzip. Needs zlib (CMake target tessera::data).
#pragma once

#include <zlib.h>

#include <algorithm>
#include <array>
#include <climits>
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
#include "tessera/data/image.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// Reads a file from start to end, and unpacks it if it is a gzip file.
class PackedFile {
 public:
  explicit PackedFile(const std::filesystem::path& path) : path_(path.string()), file_(path, O_RDONLY) {
    packed_ = more() && stream_.avail_in > 1 && buffer_[0] == 0x1f && buffer_[1] == 0x8b;
    if (packed_ && inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) fail("{}: zlib cannot unpack it", path_);
  }
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;
  ~PackedFile() {
    if (packed_) inflateEnd(&stream_);
  }

  // Reads `count` bytes, or fewer at the end of the file, and returns their number. Throws Error if gzip data are
  // damaged or incomplete.
  std::size_t read(std::uint8_t* to, std::size_t count) {
    stream_.next_out = to;
    stream_.avail_out = static_cast<uInt>(count);
    while (stream_.avail_out > 0 && more()) packed_ ? unpack() : copy();
    return count - stream_.avail_out;
  }

 private:
  // Refills the buffer if it is empty. Returns false at the end of the file.
  bool more() {
    if (stream_.avail_in > 0) return true;
    const std::uintmax_t left = file_.size() - offset_;
    const std::size_t count = left < buffer_.size() ? static_cast<std::size_t>(left) : buffer_.size();
    file_.read(offset_, std::as_writable_bytes(std::span(buffer_.data(), count)));
    offset_ += count;
    stream_.next_in = buffer_.data();
    stream_.avail_in = static_cast<uInt>(count);
    if (count == 0 && unpacking_) fail("{}: ends in the middle of its gzip data; copy the file again", path_);
    return count > 0;
  }

  void unpack() {
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END) fail("{}: its gzip data are damaged; copy the file again", path_);
    unpacking_ = status == Z_OK;
    if (!unpacking_) inflateReset(&stream_);  // another gzip file may be appended
  }

  void copy() {
    const uInt count = stream_.avail_in < stream_.avail_out ? stream_.avail_in : stream_.avail_out;
    stream_.next_out = std::copy_n(stream_.next_in, count, stream_.next_out);
    stream_.next_in += count;
    stream_.avail_in -= count;
    stream_.avail_out -= count;
  }

  std::string path_;
  io::detail::Descriptor file_;
  std::uintmax_t offset_ = 0;  // in the file, of the next byte to read into the buffer
  std::array<std::uint8_t, 1 << 16> buffer_;
  z_stream stream_{};
  bool packed_ = false, unpacking_ = false;
};

// An IDX file of unsigned bytes: 00 00 08 and the number of dimensions, then the extents as big-endian 32-bit integers,
// then the values.
class IdxFile {
 public:
  explicit IdxFile(const std::filesystem::path& path) : path_(path.string()), file_(path) {}

  // Reads the extents of a file of `rank` dimensions. Throws Error unless each is in 1 .. INT_MAX.
  std::vector<int> header(int rank) {
    const std::uint32_t magic = number();
    if (magic != 0x800u + static_cast<std::uint32_t>(rank))
      fail("{}: starts with {:#010x}, but an IDX file of bytes in {} dimension(s) starts with {:#010x}", path_, magic,
           rank, 0x800 + rank);
    std::vector<int> extents;
    for (int axis = 0; axis < rank; ++axis) {
      const std::uint32_t extent = number();
      if (extent == 0 || extent > INT_MAX)
        fail("{}: dimension {} has the size {}; it must lie between 1 and {}", path_, axis, extent, INT_MAX);
      extents.push_back(static_cast<int>(extent));
    }
    return extents;
  }

  // Reads `count` values. Throws Error unless the file ends with them. Allocates as it reads, so that a wrong header of
  // a short file does not take memory for `count` values.
  std::vector<std::uint8_t> values(std::uint64_t count) {
    constexpr std::uint64_t chunk = 1 << 20;
    std::vector<std::uint8_t> bytes;
    while (bytes.size() < count) {
      const std::uint64_t wanted = count - bytes.size() < chunk ? count - bytes.size() : chunk;
      const std::size_t have = bytes.size();
      try {
        bytes.resize(have + wanted);
      } catch (const std::bad_alloc&) {
        fail("not enough memory: {} holds {} values of one byte, which are read into memory", path_, count);
      }
      const std::size_t got = file_.read(bytes.data() + have, wanted);
      if (got < wanted) fail("{}: ends after {} of {} values", path_, have + got, count);
    }
    std::uint8_t more = 0;
    if (file_.read(&more, 1) > 0) fail("{}: goes on after its {} values", path_, count);
    return bytes;
  }

 private:
  std::uint32_t number() {
    std::array<std::uint8_t, 4> b{};
    if (file_.read(b.data(), b.size()) != b.size()) fail("{}: is too short for an IDX header", path_);
    return static_cast<std::uint32_t>(b[0]) << 24 | static_cast<std::uint32_t>(b[1]) << 16 |
           static_cast<std::uint32_t>(b[2]) << 8 | b[3];
  }

  std::string path_;
  PackedFile file_;
};

// `path`, or if there is no such file `path`.gz. Throws Error if there is neither.
inline std::filesystem::path plain_or_gzip(const std::filesystem::path& path) {
  if (std::filesystem::exists(path)) return path;
  std::filesystem::path zipped = path;
  zipped += ".gz";
  if (!std::filesystem::exists(zipped)) fail("{}: there is no such file, nor {}", path.string(), zipped.string());
  return zipped;
}

}  // namespace detail

// A data set of grey images with labels, held in memory.
class IdxDataset {
 public:
  static constexpr bool in_memory = true;

  // True if the folder holds a file of MNIST's names.
  [[nodiscard]] static bool is_in(const std::filesystem::path& folder) {
    std::error_code none;
    for (const char* const name :
         {"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"})
      if (std::filesystem::exists(folder / name, none) ||
          std::filesystem::exists(folder / (std::string(name) + ".gz"), none))
        return true;
    return false;
  }

  // Reads `folder`/`split`-images-idx3-ubyte[.gz] and `folder`/`split`-labels-idx1-ubyte[.gz]. The splits of MNIST and
  // Fashion-MNIST are "train" and "t10k". Throws Error with the file and the wrong value.
  IdxDataset(const std::filesystem::path& folder, const std::string& split) {
    const auto images_path = detail::plain_or_gzip(folder / (split + "-images-idx3-ubyte"));
    const auto labels_path = detail::plain_or_gzip(folder / (split + "-labels-idx1-ubyte"));
    detail::IdxFile images(images_path);
    const std::vector<int> extents = images.header(3);
    height_ = extents[1];
    width_ = extents[2];
    const std::uint64_t area = static_cast<std::uint64_t>(height_) * static_cast<std::uint64_t>(width_);
    if (area > (1u << 26))
      fail("{}: states images of {} x {} pixels; at most {} pixels are supported", images_path.string(), height_,
           width_, 1u << 26);
    pixels_ = images.values(static_cast<std::uint64_t>(extents[0]) * area);
    detail::IdxFile labels(labels_path);
    const int count = labels.header(1)[0];
    if (count != extents[0])
      fail("{}: holds {} labels, but {} holds {} images", labels_path.string(), count, images_path.string(),
           extents[0]);
    labels_ = labels.values(static_cast<std::uint64_t>(count));
  }

  // From memory: pixels has labels.size() images of height x width bytes one after the other. Throws Error if the sizes
  // do not fit.
  IdxDataset(int height, int width, std::vector<std::uint8_t> pixels, std::vector<std::uint8_t> labels)
      : height_(height), width_(width), pixels_(std::move(pixels)), labels_(std::move(labels)) {
    if (height <= 0 || width <= 0 ||
        pixels_.size() != labels_.size() * static_cast<std::size_t>(height) * static_cast<std::size_t>(width))
      fail("{} bytes do not make {} images of {} x {} pixels", pixels_.size(), labels_.size(), height, width);
  }

  [[nodiscard]] int size() const { return static_cast<int>(labels_.size()); }
  [[nodiscard]] int height() const { return height_; }
  [[nodiscard]] int width() const { return width_; }
  [[nodiscard]] static constexpr int channels() { return 1; }

  // Image i, 0 <= i < size(), in memory of the data set.
  [[nodiscard]] ImageView decode(int i, Image&) const {
    return {pixels_.data() + static_cast<std::size_t>(i) * static_cast<std::size_t>(height_ * width_), height_, width_,
            1};
  }
  [[nodiscard]] int label(int i) const { return labels_[static_cast<std::size_t>(i)]; }

 private:
  int height_ = 0, width_ = 0;
  std::vector<std::uint8_t> pixels_, labels_;
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
