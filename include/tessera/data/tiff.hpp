// TIFF files in memory, by libtiff. Needs it, version 4.5 or newer (CMake target tessera::image, which sets
// TESSERA_HAS_TIFF=1 if it was found).
#pragma once

#include <tiffio.h>

#include <array>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/jpeg.hpp"
#include "tessera/data/picture_file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

// The first page of a TIFF file, open for reading. What libtiff says is kept and not printed.
class TiffFile {
 public:
  explicit TiffFile(std::span<const std::byte> file) : file_(file) {
    TIFFOpenOptions* const options = TIFFOpenOptionsAlloc();
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, most_bytes);
    TIFFOpenOptionsSetErrorHandlerExtR(options, on_error, this);
    TIFFOpenOptionsSetWarningHandlerExtR(options, on_warning, this);
    tiff_ = TIFFClientOpenExt("", "rm", this, read, write, seek, close, size, nullptr, nullptr, options);
    TIFFOpenOptionsFree(options);
  }
  TiffFile(const TiffFile&) = delete;
  TiffFile& operator=(const TiffFile&) = delete;
  ~TiffFile() {
    if (tiff_ != nullptr) TIFFClose(tiff_);
  }

  // The largest piece of memory for pixels that are not converted yet.
  static constexpr tmsize_t most_bytes = 3 * most_pixels;

  [[nodiscard]] TIFF* get() const { return tiff_; }
  [[nodiscard]] const char* problem() const { return problem_.data(); }
  // From here on what libtiff says is about pixels, which are damaged then; before, about tags that are left out.
  void expect_pixels() {
    problem_[0] = '\0';
    warnings_count_ = true;
  }
  [[nodiscard]] bool damaged() const { return problem_[0] != '\0'; }

  // The value of a tag of 16 or 32 bits, or its default.
  template <class Value>
  [[nodiscard]] Value value(std::uint32_t tag) const {
    Value value = 0;
    return TIFFGetFieldDefaulted(tiff_, tag, &value) == 1 ? value : Value{0};
  }

 private:
  static TiffFile& of(void* self) { return *static_cast<TiffFile*>(self); }
  int keep(const char* format, std::va_list values) {
    if (!damaged()) std::vsnprintf(problem_.data(), problem_.size(), format, values);
    return 1;  // libtiff prints nothing
  }
  static int on_error(TIFF*, void* self, const char*, const char* format, std::va_list values) {
    return of(self).keep(format, values);
  }
  static int on_warning(TIFF*, void* self, const char*, const char* format, std::va_list values) {
    return of(self).warnings_count_ ? of(self).keep(format, values) : 1;
  }
  static tmsize_t read(thandle_t self, void* to, tmsize_t count) {
    TiffFile& file = of(self);
    if (count < 0 || file.at_ >= file.file_.size()) return 0;
    const std::size_t left = file.file_.size() - static_cast<std::size_t>(file.at_);
    const std::size_t got = static_cast<std::size_t>(count) < left ? static_cast<std::size_t>(count) : left;
    std::memcpy(to, file.file_.data() + file.at_, got);
    file.at_ += got;
    return static_cast<tmsize_t>(got);
  }
  static tmsize_t write(thandle_t, void*, tmsize_t) { return 0; }
  static toff_t seek(thandle_t self, toff_t to, int from) {
    TiffFile& file = of(self);
    const toff_t origin = from == SEEK_SET ? 0 : from == SEEK_CUR ? file.at_ : file.file_.size();
    return file.at_ = origin + to;
  }
  static int close(thandle_t) { return 0; }
  static toff_t size(thandle_t self) { return of(self).file_.size(); }

  std::span<const std::byte> file_;
  toff_t at_ = 0;
  TIFF* tiff_ = nullptr;
  bool warnings_count_ = false;
  std::array<char, 300> problem_{};
};

// The way in which a TIFF file stores a pixel.
struct TiffLayout {
  std::uint32_t width = 0, height = 0;
  int bits = 0, samples = 0;  // of a sample; of a pixel
  int photometric = 0, compression = 0;
  bool separate = false;                    // one plane after the other; else one pixel after the other
  bool premultiplied = false;               // the colours are multiplied by the first extra sample, alpha
  std::array<std::uint16_t*, 3> palette{};  // red, green and blue, 2^bits of each; memory of libtiff

  [[nodiscard]] bool grey() const {
    return photometric == PHOTOMETRIC_MINISBLACK || photometric == PHOTOMETRIC_MINISWHITE;
  }
  [[nodiscard]] int colors() const {
    return photometric == PHOTOMETRIC_SEPARATED ? 4 : photometric == PHOTOMETRIC_RGB ? 3 : 1;
  }
  // True if decode_tiff understands it.
  [[nodiscard]] bool known() const {
    const bool small = bits == 1 || bits == 2 || bits == 4;
    const bool kind = grey()                                 ? small || bits == 8 || bits == 16
                      : photometric == PHOTOMETRIC_PALETTE   ? (small || bits == 8) && palette[0] != nullptr
                      : photometric == PHOTOMETRIC_RGB       ? bits == 8 || bits == 16
                      : photometric == PHOTOMETRIC_SEPARATED ? (bits == 8 || bits == 16) && !separate
                                                             : false;
    const bool alpha = !premultiplied || (photometric == PHOTOMETRIC_RGB && bits == 8 && !separate && samples > 3);
    return kind && alpha && samples >= colors() && samples <= 6;
  }
};

[[nodiscard]] inline TiffLayout tiff_layout(const TiffFile& file) {
  TiffLayout layout;
  layout.width = file.value<std::uint32_t>(TIFFTAG_IMAGEWIDTH);
  layout.height = file.value<std::uint32_t>(TIFFTAG_IMAGELENGTH);
  layout.bits = file.value<std::uint16_t>(TIFFTAG_BITSPERSAMPLE);
  layout.samples = file.value<std::uint16_t>(TIFFTAG_SAMPLESPERPIXEL);
  layout.compression = file.value<std::uint16_t>(TIFFTAG_COMPRESSION);
  layout.photometric = file.value<std::uint16_t>(TIFFTAG_PHOTOMETRIC);
  layout.separate = file.value<std::uint16_t>(TIFFTAG_PLANARCONFIG) == PLANARCONFIG_SEPARATE;
  if (file.value<std::uint16_t>(TIFFTAG_SAMPLEFORMAT) != SAMPLEFORMAT_UINT) layout.bits = 0;
  std::uint16_t count = 0;
  const std::uint16_t* kinds = nullptr;
  if (TIFFGetFieldDefaulted(file.get(), TIFFTAG_EXTRASAMPLES, &count, &kinds) == 1 && count > 0)
    layout.premultiplied = kinds[0] == EXTRASAMPLE_ASSOCALPHA;
  if (layout.photometric == PHOTOMETRIC_PALETTE)
    TIFFGetField(file.get(), TIFFTAG_COLORMAP, &layout.palette[0], &layout.palette[1], &layout.palette[2]);
  // libjpeg turns YCbCr to RGB.
  if (layout.compression == COMPRESSION_JPEG && layout.photometric == PHOTOMETRIC_YCBCR && !layout.separate &&
      TIFFSetField(file.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB) == 1)
    layout.photometric = PHOTOMETRIC_RGB;
  return layout;
}

// Converts samples to grey or RGB pixels.
class TiffPixels {
 public:
  explicit TiffPixels(const TiffLayout& layout) : layout_(layout) {
    if (layout.photometric != PHOTOMETRIC_PALETTE) return;
    for (std::size_t i = 0; i < std::size_t{1} << layout.bits; ++i)
      for (std::size_t c = 0; c < 3; ++c) palette_[i][c] = static_cast<std::uint8_t>(layout.palette[c][i] >> 8);
  }

  // Writes `count` pixels (count x channels) from the samples of all channels, or of plane `plane`, if each has its
  // own.
  void put(const std::uint8_t* samples, std::size_t count, std::size_t plane, std::uint8_t* to) const {
    const std::size_t step = layout_.separate ? 1 : static_cast<std::size_t>(layout_.samples);
    for (std::size_t p = 0; p < count; ++p) {
      const auto value = [&](std::size_t c) { return sample(samples, p * step + c); };
      if (layout_.grey()) {
        const int light = value(0) * (layout_.bits < 8 ? 255 / ((1 << layout_.bits) - 1) : 1);
        to[p] = static_cast<std::uint8_t>(layout_.photometric == PHOTOMETRIC_MINISWHITE ? 255 - light : light);
      } else if (layout_.photometric == PHOTOMETRIC_PALETTE) {
        std::memcpy(to + 3 * p, palette_[value(0)].data(), 3);
      } else if (layout_.photometric == PHOTOMETRIC_SEPARATED) {
        std::array<std::uint8_t, 4> light{};
        for (std::size_t c = 0; c < 4; ++c) light[c] = static_cast<std::uint8_t>(255 - value(c));
        rgb_of_inverted_cmyk(1, light.data());
        std::memcpy(to + 3 * p, light.data(), 3);
      } else if (layout_.separate) {
        to[3 * p + plane] = value(0);
      } else {
        for (std::size_t c = 0; c < 3; ++c)
          to[3 * p + c] = layout_.premultiplied ? divided(value(c), value(3)) : value(c);
      }
    }
  }

 private:
  // Sample i of a row: of 16 bits the high byte, of fewer than 8 the number.
  [[nodiscard]] std::uint8_t sample(const std::uint8_t* row, std::size_t i) const {
    const auto bits = static_cast<std::size_t>(layout_.bits);
    if (bits == 8) return row[i];
    if (bits == 16) {
      std::uint16_t value = 0;
      std::memcpy(&value, row + 2 * i, 2);
      return static_cast<std::uint8_t>(value >> 8);
    }
    return static_cast<std::uint8_t>((row[i * bits / 8] >> (8 - bits - i * bits % 8)) & ((1 << bits) - 1));
  }
  [[nodiscard]] static std::uint8_t divided(int color, int alpha) {
    const int whole = alpha == 0 ? 0 : color * 255 / alpha;
    return static_cast<std::uint8_t>(whole > 255 ? 255 : whole);
  }

  TiffLayout layout_;
  std::array<std::array<std::uint8_t, 3>, 256> palette_{};
};

// Reads a page that is stored in rows, or in tiles, which cover the picture from left to right and from top to bottom.
// Returns false where data are damaged, and where a row or a tile is too large.
inline bool read_tiff(const TiffFile& file, const TiffLayout& layout, Image& to) {
  const TiffPixels pixels(layout);
  TIFF* const tiff = file.get();
  const bool tiled = TIFFIsTiled(tiff) != 0;
  const tmsize_t bytes = tiled ? TIFFTileSize(tiff) : TIFFScanlineSize(tiff);
  const auto tile_width = file.value<std::uint32_t>(TIFFTAG_TILEWIDTH);
  const auto tile_height = file.value<std::uint32_t>(TIFFTAG_TILELENGTH);
  if (bytes <= 0 || bytes > TiffFile::most_bytes || (tiled && (tile_width == 0 || tile_height == 0))) return false;
  std::vector<std::uint8_t> samples(static_cast<std::size_t>(bytes));
  const auto at = [&](std::uint32_t y, std::uint32_t x) {
    return to.row(static_cast<int>(y)) + x * static_cast<std::uint32_t>(to.channels);
  };
  const auto planes = static_cast<std::uint16_t>(layout.separate ? layout.colors() : 1);
  for (std::uint16_t plane = 0; plane < planes; ++plane) {
    for (std::uint32_t y = 0; !tiled && y < layout.height; ++y) {
      if (TIFFReadScanline(tiff, samples.data(), y, plane) != 1 || file.damaged()) return false;
      pixels.put(samples.data(), layout.width, plane, at(y, 0));
    }
    for (std::uint32_t y = 0; tiled && y < layout.height; y += tile_height)
      for (std::uint32_t x = 0; x < layout.width; x += tile_width) {
        if (TIFFReadTile(tiff, samples.data(), x, y, 0, plane) < 0 || file.damaged()) return false;
        const std::size_t row_bytes = samples.size() / tile_height;
        const std::uint32_t columns = layout.width - x < tile_width ? layout.width - x : tile_width;
        for (std::uint32_t row = 0; row < tile_height && y + row < layout.height; ++row)
          pixels.put(samples.data() + row * row_bytes, columns, plane, at(y + row, x));
      }
  }
  return true;
}

}  // namespace detail

// Decodes the first page of a TIFF file to grey or RGB pixels, which are Pillow's to the bit, but for 16-bit grey: of
// 16 bits the high byte is taken. These are grey and RGB of 8 or 16 bits, grey and palettes of 1, 2, 4 or 8 bits, CMYK,
// and YCbCr in JPEG; alpha is dropped. Returns the orientation, 1 to 8. Throws Error, which starts with `name`, for
// other, damaged and truncated files and more than most_pixels pixels.
inline int decode_tiff(std::span<const std::byte> file, std::string_view name, Image& to) {
  detail::TiffFile tiff(file);
  if (tiff.get() == nullptr) fail("{}: is not a TIFF file that can be decoded: {}", name, tiff.problem());
  const detail::TiffLayout layout = detail::tiff_layout(tiff);
  detail::check_size(name, layout.width, layout.height);
  if (!layout.known())
    fail("{}: is a TIFF file of a kind that is not decoded: photometric interpretation {}, {} sample(s) of {} bits",
         name, layout.photometric, layout.samples, layout.bits);
  const std::uint64_t row = TIFFScanlineSize64(tiff.get());
  const std::uint64_t planes = layout.separate ? static_cast<std::uint64_t>(layout.samples) : 1;
  if (layout.compression == COMPRESSION_NONE && row * layout.height * planes > file.size())
    fail("{}: is truncated: its pixels take {} bytes, and it holds {} in all", name, row * layout.height * planes,
         file.size());
  to.resize(static_cast<int>(layout.height), static_cast<int>(layout.width), layout.grey() ? 1 : 3);
  tiff.expect_pixels();
  if (!detail::read_tiff(tiff, layout, to))
    fail("{}: cannot be decoded: {}", name, tiff.damaged() ? tiff.problem() : "its rows or tiles are too large");
  const int orientation = tiff.value<std::uint16_t>(TIFFTAG_ORIENTATION);
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
