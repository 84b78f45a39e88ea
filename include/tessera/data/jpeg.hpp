// JPEG files in memory, by libjpeg-turbo. Needs it (CMake target tessera::image).
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
// libjpeg's header needs those above.
#include <jpeglib.h>

#include <array>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/picture_file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// CMYK as Adobe stores it, each value 255 less the ink, to RGB as Pillow converts it; in place, to the front.
inline void rgb_of_inverted_cmyk(std::size_t pixels, std::uint8_t* values) {
  for (std::size_t p = 0; p < pixels; ++p) {
    const std::uint8_t* const from = values + 4 * p;
    const int light = from[3];
    for (std::size_t c = 0; c < 3; ++c) {
      const int product = (255 - from[c]) * light + 128;
      const int value = light - ((product + (product >> 8)) >> 8);
      values[3 * p + c] = static_cast<std::uint8_t>(value < 0 ? 0 : value);
    }
  }
}

// A decompressor of libjpeg. Its errors jump out of the library: each call that may fail is a function of its own
// without objects to destroy, and returns false after an error.
class Jpeg {
 public:
  Jpeg() {
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = [](j_common_ptr info) {
      auto* const errors = reinterpret_cast<Errors*>(info->err);
      info->err->format_message(info, errors->message.data());
      std::longjmp(errors->escape, 1);
    };
    errors_.base.output_message = [](j_common_ptr) {};
  }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;
  ~Jpeg() { jpeg_destroy_decompress(&info_); }

  [[nodiscard]] const char* problem() const { return errors_.message.data(); }
  // libjpeg warns where data are missing or wrong, and goes on with grey.
  [[nodiscard]] bool damaged() const { return errors_.base.num_warnings > 0; }
  [[nodiscard]] int width() const { return static_cast<int>(info_.image_width); }
  [[nodiscard]] int height() const { return static_cast<int>(info_.image_height); }
  // Pixels that read_rows gives, known after start().
  [[nodiscard]] int output_width() const { return static_cast<int>(info_.output_width); }
  [[nodiscard]] int output_height() const { return static_cast<int>(info_.output_height); }
  // A file has at least one bit for each block of 8 x 8 pixels, unless its coding is arithmetic.
  [[nodiscard]] bool is_too_short(std::size_t bytes) const {
    return info_.arith_code == FALSE && std::size_t{info_.image_width} * info_.image_height / 512 > bytes;
  }
  // read_rows gives 1 (grey), 3 (RGB) or 4 (CMYK as it is stored).
  [[nodiscard]] int channels() const { return info_.output_components; }
  [[nodiscard]] int orientation() const {
    for (const jpeg_marker_struct* marker = info_.marker_list; marker != nullptr; marker = marker->next) {
      const auto data = std::as_bytes(std::span(marker->data, marker->data_length));
      if (!starts_with(data, exif_start)) continue;  // XMP has the same marker
      if (const int found = exif_orientation(data); found != 1) return found;
    }
    return 1;
  }

  [[nodiscard]] bool read_header(std::span<const std::byte> file) {
    if (setjmp(errors_.escape) != 0) return false;
    jpeg_create_decompress(&info_);
    info_.mem->max_memory_to_use = 1 << 30;  // of coefficients of progressive files
    jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
    return true;
  }
  // The picture is decoded at 1/denominator of its size: 1, 2, 4 or 8.
  [[nodiscard]] bool start(int denominator) {
    if (setjmp(errors_.escape) != 0) return false;
    if (info_.num_components == 1)
      info_.out_color_space = JCS_GRAYSCALE;
    else if (info_.num_components == 4)
      info_.out_color_space = JCS_CMYK;
    else
      info_.out_color_space = JCS_RGB;
    // Each scan of a progressive file goes over the whole picture: few bytes make much work.
    progress_.progress_monitor = [](j_common_ptr info) {
      constexpr int most_scans = 500;
      auto* const decompressor = reinterpret_cast<j_decompress_ptr>(info);
      if (decompressor->input_scan_number <= most_scans) return;
      auto* const errors = reinterpret_cast<Errors*>(info->err);
      std::snprintf(errors->message.data(), errors->message.size(), "it has more than %d scans", most_scans);
      std::longjmp(errors->escape, 1);
    };
    info_.progress = &progress_;
    info_.scale_num = 1;
    info_.scale_denom = static_cast<unsigned>(denominator);
    jpeg_start_decompress(&info_);
    return true;
  }
  [[nodiscard]] bool read_rows(std::uint8_t* to) {
    if (setjmp(errors_.escape) != 0) return false;
    const std::size_t stride = static_cast<std::size_t>(info_.output_width) * static_cast<std::size_t>(channels());
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = to + info_.output_scanline * stride;
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

 private:
  struct Errors {
    jpeg_error_mgr base;
    std::jmp_buf escape;
    std::array<char, JMSG_LENGTH_MAX> message{};
  };
  Errors errors_{};
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct info_{};
};

}  // namespace detail

// The denominator of the scale at which a JPEG file of height x width pixels, as stored, is decoded: 1, 2, 4 or 8.
using JpegScale = std::function<int(int height, int width, int orientation)>;

// Decodes a JPEG file to grey or RGB pixels, which are Pillow's to the bit, and returns its Exif orientation, 1 to 8.
// CMYK becomes RGB. With `scale` the picture is made at a fraction of its size, each side rounded up, by libjpeg's
// smaller transforms. Throws Error, which starts with `name`, for damaged and truncated files, more than most_pixels
// pixels, and kinds that libjpeg-turbo does not decode, such as 12 bits.
inline int decode_jpeg(std::span<const std::byte> file, std::string_view name, Image& to, const JpegScale& scale = {}) {
  detail::Jpeg jpeg;
  if (!jpeg.read_header(file)) fail("{}: is not a JPEG file that can be decoded: {}", name, jpeg.problem());
  detail::check_size(name, jpeg.width(), jpeg.height());
  if (jpeg.is_too_short(file.size()))
    fail("{}: is truncated: {} bytes cannot hold {} x {} pixels", name, file.size(), jpeg.width(), jpeg.height());
  const int orientation = jpeg.orientation();  // libjpeg forgets it behind the last row
  if (!jpeg.start(scale ? scale(jpeg.height(), jpeg.width(), orientation) : 1))
    fail("{}: cannot be decoded: {}", name, jpeg.problem());
  to.resize(jpeg.output_height(), jpeg.output_width(), jpeg.channels());
  if (!jpeg.read_rows(to.pixels.data())) fail("{}: cannot be decoded: {}", name, jpeg.problem());
  if (jpeg.damaged()) fail("{}: is truncated or damaged", name);
  if (to.channels == 4) {
    detail::rgb_of_inverted_cmyk(to.pixels.size() / 4, to.pixels.data());
    to.resize(to.height, to.width, 3);
  }
  return orientation;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
