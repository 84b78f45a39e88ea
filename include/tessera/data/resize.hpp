// Crop and antialiased resize of 8-bit images, equal to Pillow's pixel for pixel (spec 3.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/data/image.hpp"

namespace tessera::inline TESSERA_ABI::data {

enum class Filter { bilinear, bicubic };

// A rectangle of pixels.
struct Box {
  int top = 0, left = 0, height = 0, width = 0;
};

namespace detail {

[[nodiscard]] inline double filter_value(Filter filter, double x) {
  x = std::abs(x);
  if (filter == Filter::bilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// For each output position, the first input position that counts and the weights in units of 2^-22.
struct Weights {
  int taps = 0;
  std::vector<int> first, count, values;
  std::vector<double> exact;

  void prepare(int in, int out, Filter filter) {
    const double scale = static_cast<double>(in) / out, stretch = scale > 1 ? scale : 1;
    const double support = (filter == Filter::bilinear ? 1.0 : 2.0) * stretch;
    taps = static_cast<int>(std::ceil(support)) * 2 + 1;
    first.resize(static_cast<std::size_t>(out));
    count.resize(static_cast<std::size_t>(out));
    values.assign(static_cast<std::size_t>(out * taps), 0);
    exact.resize(static_cast<std::size_t>(taps));
    for (int x = 0; x < out; ++x) prepare_one(x, in, scale, stretch, support, filter);
  }

 private:
  void prepare_one(int x, int in, double scale, double stretch, double support, Filter filter) {
    const double center = (x + 0.5) * scale;
    const int from = static_cast<int>(center - support + 0.5), to = static_cast<int>(center + support + 0.5);
    const int low = from < 0 ? 0 : from, high = to > in ? in : to;
    double sum = 0;
    for (int t = low; t < high; ++t)
      sum += exact[static_cast<std::size_t>(t - low)] = filter_value(filter, (t - center + 0.5) * (1.0 / stretch));
    first[static_cast<std::size_t>(x)] = low;
    count[static_cast<std::size_t>(x)] = high - low;
    for (int t = 0; t < high - low; ++t) {
      const double weight = sum != 0 ? exact[static_cast<std::size_t>(t)] / sum : 0;
      values[static_cast<std::size_t>(x * taps + t)] = static_cast<int>(weight * (1 << 22) + (weight < 0 ? -0.5 : 0.5));
    }
  }
};

[[nodiscard]] inline std::uint8_t clip_fixed(int sum) {
  const int value = sum >> 22;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// `out` rows of `bytes` bytes, each a weighted sum of rows that start `stride` bytes apart. Runs along memory.
inline void resize_rows(const Weights& w, int out, int bytes, const std::uint8_t* from, int stride, std::uint8_t* to) {
  for (int y = 0; y < out; ++y, to += bytes) {
    const int* const weight = w.values.data() + y * w.taps;
    const std::uint8_t* const rows = from + w.first[static_cast<std::size_t>(y)] * stride;
    const int count = w.count[static_cast<std::size_t>(y)];
    in_pieces(bytes, [=](int column, auto size) {
      int sums[largest_piece];
      for (int i = 0; i < size; ++i) sums[i] = 1 << 21;
      for (int t = 0; t < count; ++t)
        for (int i = 0; i < size; ++i) sums[i] += rows[t * stride + column + i] * weight[t];
      for (int i = 0; i < size; ++i) to[column + i] = clip_fixed(sums[i]);
    });
  }
}

}  // namespace detail

// Memory that resizing reuses from image to image; one for each thread.
struct ResizeScratch {
  detail::Weights weights;
  std::vector<std::uint8_t> turned, resized, middle;
};

// `out` = the part `box` of `in`, resized to height x width. Only pixels of the box count. box must lie within `in`.
// First the width, as the height of the turned image, then the height; what has the size already is left alone.
inline void crop_resize(ImageView in, Box box, int height, int width, Filter filter, ResizeScratch& scratch,
                        Image& out) {
  const int channels = in.channels;
  const std::uint8_t* from = in.row(box.top) + box.left * channels;
  int stride = in.width * channels;
  if (width != box.width) {
    const auto bytes = [&](int columns) { return static_cast<std::size_t>(box.height * columns * channels); };
    scratch.turned.resize(bytes(box.width));
    scratch.resized.resize(bytes(width));
    scratch.middle.resize(bytes(width));
    detail::transpose(box.height, box.width, channels, from, stride, scratch.turned.data());
    stride = box.height * channels;
    scratch.weights.prepare(box.width, width, filter);
    detail::resize_rows(scratch.weights, width, stride, scratch.turned.data(), stride, scratch.resized.data());
    detail::transpose(width, box.height, channels, scratch.resized.data(), stride, scratch.middle.data());
    from = scratch.middle.data();
    stride = width * channels;
  }
  out.resize(height, width, channels);
  if (height != box.height) {
    scratch.weights.prepare(box.height, height, filter);
    detail::resize_rows(scratch.weights, height, width * channels, from, stride, out.pixels.data());
  } else {
    for (int y = 0; y < height; ++y) std::copy_n(from + y * stride, width * channels, out.row(y));
  }
}

}  // namespace tessera::inline TESSERA_ABI::data
