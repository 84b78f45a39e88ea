// PNG files in memory, by libpng. Needs it (CMake target tessera::image).
#pragma once

#include <png.h>

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture_file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// A reader of libpng. Its errors jump out of the library: each call that may fail is a function of its own without
// objects to destroy, and returns false after an error.
class Png {
 public:
  explicit Png(std::span<const std::byte> file) : left_(file) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail_call, [](png_structp, png_const_charp) {});
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
  }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
  ~Png() { png_destroy_read_struct(&png_, &info_, nullptr); }

  [[nodiscard]] const char* problem() const { return message_.data(); }
  [[nodiscard]] int width() const { return static_cast<int>(png_get_image_width(png_, info_)); }
  [[nodiscard]] int height() const { return static_cast<int>(png_get_image_height(png_, info_)); }
  // zlib packs 1,032 bytes at most into one.
  [[nodiscard]] bool is_too_short(std::size_t bytes) const {
    return png_get_rowbytes(png_, info_) / 1032 * static_cast<std::size_t>(height()) > bytes;
  }
  // read_rows gives 1 (grey) or 3 (RGB).
  [[nodiscard]] int channels() const { return png_get_channels(png_, info_); }
  // Known behind the last row, since Exif data may follow the pixels.
  [[nodiscard]] int orientation() const {
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(png_, info_, &size, &exif) == 0) return 1;
    return exif_orientation(std::as_bytes(std::span(exif, size)));
  }

  [[nodiscard]] bool read_header() {
    if (png_ == nullptr || info_ == nullptr) return tell("not enough memory");
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_read_fn(png_, this, read);
    // Exif alone of what stands beside the pixels is looked at: texts and profiles may unpack to gigabytes.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, reinterpret_cast<png_const_bytep>("eXIf"), 1);
    png_read_info(png_, info_);
    return true;
  }
  // 8 bits (the high byte of 16), grey or RGB, no alpha.
  [[nodiscard]] bool start() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_strip_16(png_);
    png_set_expand(png_);
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  [[nodiscard]] bool read_rows(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

 private:
  bool tell(const char* problem) {
    std::strncpy(message_.data(), problem, message_.size() - 1);
    return false;
  }
  [[noreturn]] static void fail_call(png_structp png, png_const_charp problem) {
    static_cast<Png*>(png_get_error_ptr(png))->tell(problem);
    png_longjmp(png, 1);
  }
  static void read(png_structp png, png_bytep to, std::size_t count) {
    auto& left = static_cast<Png*>(png_get_io_ptr(png))->left_;
    if (count > left.size()) png_error(png, "it is truncated");
    std::memcpy(to, left.data(), count);
    left = left.subspan(count);
  }

  std::span<const std::byte> left_;
  std::array<char, 200> message_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace detail

// Decodes a PNG file to grey or RGB pixels, which are Pillow's to the bit, but for 16-bit grey: of 16 bits the high
// byte is taken. Alpha and transparent colours are dropped. Returns the orientation of Exif, 1 to 8. Throws Error,
// which starts with `name`, for damaged and truncated files and more than most_pixels pixels.
inline int decode_png(std::span<const std::byte> file, std::string_view name, Image& to) {
  detail::Png png(file);
  if (!png.read_header()) fail("{}: is not a PNG file that can be decoded: {}", name, png.problem());
  detail::check_size(name, png.width(), png.height());
  if (png.is_too_short(file.size()))
    fail("{}: is truncated: {} bytes cannot hold {} x {} pixels", name, file.size(), png.width(), png.height());
  if (!png.start()) fail("{}: cannot be decoded: {}", name, png.problem());
  to.resize(png.height(), png.width(), png.channels());
  std::vector<png_bytep> rows(static_cast<std::size_t>(to.height));
  for (int y = 0; y < to.height; ++y) rows[static_cast<std::size_t>(y)] = to.row(y);
  if (!png.read_rows(rows.data())) fail("{}: cannot be decoded: {}", name, png.problem());
  return png.orientation();
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
