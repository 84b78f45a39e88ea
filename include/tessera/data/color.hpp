// Colour operations on 8-bit images, equal to torchvision's on Pillow images (spec 3.4, 3.6). All work in place. Grey
// images keep to Pillow's mode "L": saturation, hue and grayscale leave them as they are.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "tessera/core/abi.hpp"
#include "tessera/core/math.hpp"
#include "tessera/data/image.hpp"

namespace tessera::inline TESSERA_ABI::data {

[[nodiscard]] constexpr std::uint8_t luminance(int red, int green, int blue) {
  return static_cast<std::uint8_t>((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16);
}

namespace detail {

// degenerate + factor * (value - degenerate), truncated, and clipped where the factor may leave 0..255.
[[nodiscard]] inline std::uint8_t blend(int degenerate, int value, float factor) {
  const float mixed =
      static_cast<float>(degenerate) + math::rounded_product(factor, static_cast<float>(value - degenerate));
  return static_cast<std::uint8_t>(mixed <= 0 ? 0 : mixed >= 255 ? 255 : static_cast<int>(mixed));
}

using Table = std::array<std::uint8_t, 256>;

// Blends every value with one constant.
inline void blend_constant(Image& image, int degenerate, float factor) {
  if (factor == 1) return;
  Table table{};
  for (int value = 0; value < 256; ++value) table[static_cast<std::size_t>(value)] = blend(degenerate, value, factor);
  for (std::uint8_t& pixel : image.pixels) pixel = table[pixel];
}

struct Hsv {
  std::uint8_t hue, saturation, value;
};

[[nodiscard]] inline std::uint8_t clip(int value) {
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

[[nodiscard]] inline Hsv to_hsv(std::uint8_t red, std::uint8_t green, std::uint8_t blue) {
  const std::uint8_t high = red > green ? (red > blue ? red : blue) : (green > blue ? green : blue);
  const std::uint8_t low = red < green ? (red < blue ? red : blue) : (green < blue ? green : blue);
  if (high == low) return {0, 0, high};
  const float range = static_cast<float>(high - low);
  const float saturation = range / static_cast<float>(high);
  const float rc = static_cast<float>(high - red) / range, gc = static_cast<float>(high - green) / range,
              bc = static_cast<float>(high - blue) / range;
  float hue = red == high     ? bc - gc
              : green == high ? static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc))
                              : static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
  hue = static_cast<float>(std::fmod(static_cast<double>(hue) / 6.0 + 1.0, 1.0));
  return {clip(static_cast<int>(static_cast<double>(hue) * 255.0)),
          clip(static_cast<int>(static_cast<double>(saturation) * 255.0)), high};
}

inline void from_hsv(Hsv hsv, std::uint8_t* rgb) {
  const std::uint8_t v = hsv.value;
  if (hsv.saturation == 0) {
    rgb[0] = rgb[1] = rgb[2] = v;
    return;
  }
  const double sector = static_cast<double>(hsv.hue) * 6.0 / 255.0;
  const int i = static_cast<int>(std::floor(sector));
  const float f = static_cast<float>(sector - static_cast<double>(static_cast<float>(i)));
  const float fs = static_cast<float>(static_cast<double>(hsv.saturation) / 255.0);
  const auto round = [v](double share) { return clip(static_cast<int>(std::round(static_cast<double>(v) * share))); };
  const std::uint8_t p = round(1.0 - static_cast<double>(fs)), q = round(1.0 - static_cast<double>(fs * f)),
                     t = round(1.0 - static_cast<double>(fs) * (1.0 - static_cast<double>(f)));
  const std::array<std::array<std::uint8_t, 3>, 6> sectors{
      {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}}};
  std::copy_n(sectors[static_cast<std::size_t>(i % 6)].data(), 3, rgb);
}

}  // namespace detail

// factor 0 gives black, 1 the image.
inline void adjust_brightness(Image& image, float factor) {
  detail::blend_constant(image, 0, factor);
}

// factor 0 gives the mean luminance everywhere, 1 the image.
inline void adjust_contrast(Image& image, float factor) {
  std::uint64_t sum = 0;
  if (image.channels == 1) {
    for (const std::uint8_t value : image.pixels) sum += value;
  } else {
    for (std::size_t i = 0; i < image.pixels.size(); i += 3)
      sum += luminance(image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]);
  }
  const double mean = static_cast<double>(sum) / static_cast<double>(image.height * image.width);
  detail::blend_constant(image, static_cast<int>(mean + 0.5), factor);
}

// factor 0 gives the grey image, 1 the image.
inline void adjust_saturation(Image& image, float factor) {
  if (image.channels == 1 || factor == 1) return;
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    std::uint8_t* const rgb = image.pixels.data() + i;
    const int grey = luminance(rgb[0], rgb[1], rgb[2]);
    for (int c = 0; c < 3; ++c) rgb[c] = detail::blend(grey, rgb[c], factor);
  }
}

// Turns the hue by `shift` of a full circle, -0.5 .. 0.5.
inline void adjust_hue(Image& image, float shift) {
  if (image.channels == 1) return;
  const int turn = static_cast<int>(static_cast<double>(shift) * 255.0);
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    std::uint8_t* const rgb = image.pixels.data() + i;
    detail::Hsv hsv = detail::to_hsv(rgb[0], rgb[1], rgb[2]);
    hsv.hue = static_cast<std::uint8_t>(hsv.hue + turn);
    detail::from_hsv(hsv, rgb);
  }
}

// Every channel becomes the luminance.
inline void to_grayscale(Image& image) {
  if (image.channels == 1) return;
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    std::uint8_t* const rgb = image.pixels.data() + i;
    rgb[0] = rgb[1] = rgb[2] = luminance(rgb[0], rgb[1], rgb[2]);
  }
}

// Values of 128 and more are inverted.
inline void solarize(Image& image) {
  for (std::uint8_t& value : image.pixels) value = value < 128 ? value : static_cast<std::uint8_t>(255 - value);
}

// Mirrors left and right.
inline void flip_horizontally(Image& image) {
  for (int y = 0; y < image.height; ++y) {
    std::uint8_t* const row = image.row(y);
    for (int left = 0, right = image.width - 1; left < right; ++left, --right)
      std::swap_ranges(row + left * image.channels, row + (left + 1) * image.channels, row + right * image.channels);
  }
}

}  // namespace tessera::inline TESSERA_ABI::data
