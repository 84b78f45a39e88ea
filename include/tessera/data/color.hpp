// Colour operations on 8-bit images, in place, bitwise equal to torchvision's on Pillow images (docs/method.md, 3.4 and
// 3.6). Saturation, hue and grayscale do not change a grey image, as in Pillow's mode "L". Contrast, saturation, hue
// and grayscale exist for 1 channel and 3; they throw Error for another number.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The luma of a pixel (docs/method.md, 3.4).
[[nodiscard]] TESSERA_HOST_DEVICE constexpr std::uint8_t luminance(int red, int green, int blue) {
  return static_cast<std::uint8_t>((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16);
}

namespace detail {

// factor * difference, rounded to float before the sum that follows, as in Pillow. The product is exact in double, so a
// compiler cannot fuse it with that sum; on a device __fmul_rn is never fused.
[[nodiscard]] TESSERA_HOST_DEVICE inline float rounded_product(float factor, int difference) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(factor, static_cast<float>(difference));
#else
  return static_cast<float>(static_cast<double>(factor) * difference);
#endif
}

// degenerate + factor * (value - degenerate), truncated and clipped to 0 .. 255.
[[nodiscard]] TESSERA_HOST_DEVICE inline std::uint8_t blend(int degenerate, int value, float factor) {
  const float mixed = static_cast<float>(degenerate) + rounded_product(factor, value - degenerate);
  return static_cast<std::uint8_t>(mixed <= 0 ? 0.0f : mixed >= 255 ? 255.0f : mixed);
}

// Blends every value of the image with `degenerate`.
inline void blend_constant(Image& image, int degenerate, float factor) {
  if (factor == 1) return;
  std::array<std::uint8_t, 256> table;
  for (int value = 0; value < 256; ++value) table[static_cast<std::size_t>(value)] = blend(degenerate, value, factor);
  for (std::uint8_t& pixel : image.pixels) pixel = table[pixel];
}

// Pixels of an RGB image, channel by channel, so that loops over them become vector code.
struct Block {
  static constexpr int size = 64;
  int red[size], green[size], blue[size];
};

// Calls change(block) for blocks of an RGB image and stores the changed pixels.
template <class Function>
void for_each_block(Image& image, Function change) {
  Block block{};
  std::uint8_t* rgb = image.pixels.data();
  for (int left = image.height * image.width; left > 0; left -= Block::size, rgb += 3 * Block::size) {
    const int count = left < Block::size ? left : Block::size;
    for (int i = 0; i < count; ++i) {
      block.red[i] = rgb[3 * i];
      block.green[i] = rgb[3 * i + 1];
      block.blue[i] = rgb[3 * i + 2];
    }
    change(block);
    for (int i = 0; i < count; ++i) {
      rgb[3 * i] = static_cast<std::uint8_t>(block.red[i]);
      rgb[3 * i + 1] = static_cast<std::uint8_t>(block.green[i]);
      rgb[3 * i + 2] = static_cast<std::uint8_t>(block.blue[i]);
    }
  }
}

// True if the image is grey. Throws Error unless it is grey or RGB.
[[nodiscard]] inline bool grey_or_rgb(const Image& image) {
  if (image.channels != 1 && image.channels != 3)
    fail("colours of an image of {} channels cannot be changed: it has neither 1 channel nor 3", image.channels);
  return image.channels == 1;
}

struct Hsv {
  int hue, saturation, value;  // 0 .. 255
};

// Pillow's conversion, without branches (docs/method.md, 3.4). `sixths` is the hue in sixths of the circle, -1 .. 5,
// and rounded as Pillow's: of its two quotients one is 1, so that a single difference gives it. The rest of Pillow's
// double precision does not change a result: this function equals it for all 2^24 colours.
[[nodiscard]] TESSERA_HOST_DEVICE inline Hsv to_hsv(int red, int green, int blue) {
  const int high = red > green ? (red > blue ? red : blue) : (green > blue ? green : blue);
  const int low = red < green ? (red < blue ? red : blue) : (green < blue ? green : blue);
  int sector = 4, plus = high - green, minus = high - red;
  if (green == high) {
    sector = 2;
    plus = high - red;
    minus = high - blue;
  }
  if (red == high) {
    sector = 0;
    plus = high - blue;
    minus = high - green;
  }
  const int range = high - low, divisor = range > 0 ? range : 1;
  const int farther = plus + minus - range + (divisor - range);  // grey: 1
  const int sign = plus == range ? 1 : -1;
  const float quotient = static_cast<float>(farther) / static_cast<float>(divisor);
  const float sixths = static_cast<float>(sector + sign) - static_cast<float>(sign) * quotient;
  const float turns = sixths / 6.0f, hue = turns + (turns < 0 ? 1.0f : 0.0f);
  return {static_cast<int>(hue * 255.0f),
          static_cast<int>(static_cast<float>(255 * range) / static_cast<float>(high > 0 ? high : 1)), high};
}

// The channel (red, green or blue) whose maximum is at the hue of `center` = 0, 2 or 4 sixths of the circle. With the
// distance of the hue from there the channel is `value` up to one sixth, falls linearly up to two sixths, and has its
// minimum beyond. The result is the exact quotient, rounded, and equals that of Pillow's formulas in floating point:
// the divisor is odd, so the quotient is never halfway between two integers, and it is farther from there than the
// error of floating point.
[[nodiscard]] TESSERA_HOST_DEVICE inline int from_hsv(Hsv hsv, int center) {
  constexpr int sixth = 85;  // in units of 2 * hue
  const int away = 2 * hsv.hue - center * sixth, distance = away < 0 ? -away : away;
  const int shorter = distance < 3 * sixth ? distance : 6 * sixth - distance;
  const int fallen = shorter < sixth ? 0 : shorter > 2 * sixth ? sixth : shorter - sixth;
  constexpr int divisor = 255 * sixth;
  const int product = hsv.value * (divisor - hsv.saturation * fallen);
  return static_cast<int>((static_cast<float>(product) + 0.5f * divisor) * (1.0f / divisor));
}

// The shift of the hue, a fraction of the circle, in units of Hsv::hue.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr int hue_turn(float shift) {
  return static_cast<int>(static_cast<double>(shift) * 255.0);
}

[[nodiscard]] TESSERA_HOST_DEVICE constexpr std::uint8_t solarized(int value) {
  return static_cast<std::uint8_t>(value < 128 ? value : 255 - value);
}

// The mean of `pixels` luminances with the sum `sum`, rounded.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr int mean_luminance(std::uint64_t sum, int pixels) {
  return static_cast<int>(static_cast<double>(sum) / static_cast<double>(pixels) + 0.5);
}

}  // namespace detail

// Blends with black: factor 0 gives black, 1 the image. factor >= 0.
inline void adjust_brightness(Image& image, float factor) {
  detail::blend_constant(image, 0, factor);
}

// Blends with the mean luminance of the image: factor 0 gives the mean everywhere, 1 the image. factor >= 0.
inline void adjust_contrast(Image& image, float factor) {
  std::uint64_t sum = 0;
  if (detail::grey_or_rgb(image)) {
    for (const std::uint8_t value : image.pixels) sum += value;
  } else {
    for (std::size_t i = 0; i < image.pixels.size(); i += 3)
      sum += luminance(image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]);
  }
  detail::blend_constant(image, detail::mean_luminance(sum, image.height * image.width), factor);
}

// Blends with the luminance of each pixel: factor 0 gives the grey image, 1 the image. factor >= 0.
inline void adjust_saturation(Image& image, float factor) {
  if (detail::grey_or_rgb(image) || factor == 1) return;
  detail::for_each_block(image, [factor](detail::Block& block) {
    for (int i = 0; i < detail::Block::size; ++i) {
      const int grey = luminance(block.red[i], block.green[i], block.blue[i]);
      block.red[i] = detail::blend(grey, block.red[i], factor);
      block.green[i] = detail::blend(grey, block.green[i], factor);
      block.blue[i] = detail::blend(grey, block.blue[i], factor);
    }
  });
}

// Turns the hue by `shift` of a full circle, -0.5 .. 0.5.
inline void adjust_hue(Image& image, float shift) {
  if (detail::grey_or_rgb(image)) return;
  const int turn = detail::hue_turn(shift);
  detail::for_each_block(image, [turn](detail::Block& block) {
    for (int i = 0; i < detail::Block::size; ++i) {
      detail::Hsv hsv = detail::to_hsv(block.red[i], block.green[i], block.blue[i]);
      hsv.hue = (hsv.hue + turn) & 255;
      block.red[i] = detail::from_hsv(hsv, 0);
      block.green[i] = detail::from_hsv(hsv, 2);
      block.blue[i] = detail::from_hsv(hsv, 4);
    }
  });
}

// Assigns the luminance to every channel.
inline void to_grayscale(Image& image) {
  if (detail::grey_or_rgb(image)) return;
  detail::for_each_block(image, [](detail::Block& block) {
    for (int i = 0; i < detail::Block::size; ++i)
      block.red[i] = block.green[i] = block.blue[i] = luminance(block.red[i], block.green[i], block.blue[i]);
  });
}

// Inverts values of 128 and more: v becomes 255 - v.
inline void solarize(Image& image) {
  for (std::uint8_t& value : image.pixels) value = detail::solarized(value);
}

// Mirrors left and right.
inline void flip_horizontally(Image& image) {
  const int bytes = image.width * image.channels;
  for (int y = 0; y < image.height; ++y) {
    std::uint8_t* const row = image.row(y);
    std::reverse(row, row + bytes);
    // std::reverse has also reversed the channels of each pixel.
    if (image.channels == 3) {
      for (int x = 0; x < bytes; x += 3) std::swap(row[x], row[x + 2]);
    } else if (image.channels > 1) {
      for (int x = 0; x < bytes; x += image.channels) std::reverse(row + x, row + x + image.channels);
    }
  }
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
