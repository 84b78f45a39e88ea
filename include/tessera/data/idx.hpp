// MNIST's IDX files, plain or gzip'ed. Needs zlib (tessera::data).
#pragma once

#include <zlib.h>

#include <array>
#include <climits>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"

namespace tessera::inline TESSERA_ABI::data {

namespace detail {

// A file of unsigned bytes with big-endian extents in front: 00 00 08 rank, extents, values.
class IdxFile {
 public:
  explicit IdxFile(const std::filesystem::path& path) : path_(path.string()), file_(gzopen(path.c_str(), "rb")) {
    if (!file_) fail("{}: cannot be opened", path_);
  }

  // The extents of a file of `rank` dimensions; each must be in 1 .. INT_MAX.
  std::vector<int> header(int rank) {
    const std::uint32_t magic = number();
    if (magic != 0x800u + static_cast<std::uint32_t>(rank))
      fail("{}: starts with {:#010x}, but an IDX file of bytes in {} dimension(s) starts with {:#010x}", path_, magic,
           rank, 0x800 + rank);
    std::vector<int> extents;
    for (int axis = 0; axis < rank; ++axis) {
      const std::uint32_t extent = number();
      if (extent == 0 || extent > INT_MAX) fail("{}: dimension {} has the size {}", path_, axis, extent);
      extents.push_back(static_cast<int>(extent));
    }
    return extents;
  }

  // Exactly `count` values, which must end the file. Memory grows with what is really there.
  std::vector<std::uint8_t> values(std::uint64_t count) {
    constexpr std::uint64_t chunk = 1 << 20;
    std::vector<std::uint8_t> bytes;
    while (bytes.size() < count) {
      const std::uint64_t wanted = count - bytes.size() < chunk ? count - bytes.size() : chunk;
      const std::size_t have = bytes.size();
      bytes.resize(have + wanted);
      const int got = gzread(file_.get(), bytes.data() + have, static_cast<unsigned>(wanted));
      if (got < static_cast<int>(wanted))
        fail("{}: ends after {} of {} values{}", path_, have + static_cast<std::size_t>(got > 0 ? got : 0), count,
             got < 0 ? " (damaged gzip data)" : "");
    }
    char more = 0;
    if (gzread(file_.get(), &more, 1) != 0) fail("{}: goes on after its {} values, or is damaged", path_, count);
    return bytes;
  }

 private:
  std::uint32_t number() {
    std::array<std::uint8_t, 4> b{};
    if (gzread(file_.get(), b.data(), 4) != 4) fail("{}: is too short for an IDX header", path_);
    return static_cast<std::uint32_t>(b[0]) << 24 | static_cast<std::uint32_t>(b[1]) << 16 |
           static_cast<std::uint32_t>(b[2]) << 8 | b[3];
  }

  struct Close {
    void operator()(gzFile_s* file) const { gzclose_r(file); }
  };
  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

inline std::filesystem::path plain_or_gzip(const std::filesystem::path& path) {
  if (std::filesystem::exists(path)) return path;
  std::filesystem::path zipped = path;
  zipped += ".gz";
  if (!std::filesystem::exists(zipped)) fail("{}: there is no such file, nor {}", path.string(), zipped.string());
  return zipped;
}

}  // namespace detail

// Grey images with labels, in memory; a model of Dataset.
class IdxDataset {
 public:
  // Reads `folder`/`split`-images-idx3-ubyte[.gz] and -labels-idx1-ubyte[.gz]; the splits of MNIST and its relatives
  // are "train" and "t10k". Throws Error that names the file and the value that is wrong.
  IdxDataset(const std::filesystem::path& folder, const std::string& split) {
    const auto images_path = detail::plain_or_gzip(folder / (split + "-images-idx3-ubyte"));
    const auto labels_path = detail::plain_or_gzip(folder / (split + "-labels-idx1-ubyte"));
    detail::IdxFile images(images_path);
    const std::vector<int> extents = images.header(3);
    height_ = extents[1];
    width_ = extents[2];
    const std::uint64_t area = static_cast<std::uint64_t>(height_) * static_cast<std::uint64_t>(width_);
    if (area > (1u << 26)) fail("{}: states images of {} x {} pixels", images_path.string(), height_, width_);
    pixels_ = images.values(static_cast<std::uint64_t>(extents[0]) * area);
    detail::IdxFile labels(labels_path);
    const int count = labels.header(1)[0];
    if (count != extents[0])
      fail("{}: holds {} labels, but {} holds {} images", labels_path.string(), count, images_path.string(),
           extents[0]);
    labels_ = labels.values(static_cast<std::uint64_t>(count));
  }

  // From memory: labels.size() images of height x width bytes one after the other.
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

  // 0 <= i < size().
  [[nodiscard]] ImageView image(int i) const {
    return {pixels_.data() + static_cast<std::size_t>(i) * static_cast<std::size_t>(height_ * width_), height_, width_,
            1};
  }
  [[nodiscard]] int label(int i) const { return labels_[static_cast<std::size_t>(i)]; }

 private:
  int height_ = 0, width_ = 0;
  std::vector<std::uint8_t> pixels_, labels_;
};

}  // namespace tessera::inline TESSERA_ABI::data
