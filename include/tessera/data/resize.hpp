// Crop and antialiased resize of 8-bit images, bitwise equal to Pillow's (docs/method.md, 3.3).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

enum class Filter { bilinear, bicubic };

// A rectangle of an image, in pixels.
struct Box {
  int top = 0, left = 0, height = 0, width = 0;
};

// The box in an image at 1/denominator of the size, with edges rounded to whole pixels.
[[nodiscard]] constexpr Box scaled(const Box& box, int denominator) {
  const auto edge = [=](int at) { return (at + denominator / 2) / denominator; };
  const int top = edge(box.top), left = edge(box.left);
  return {top, left, edge(box.top + box.height) - top, edge(box.left + box.width) - left};
}

namespace detail {

[[nodiscard]] TESSERA_HOST_DEVICE inline double filter_value(Filter filter, double x) {
  x = std::abs(x);
  if (filter == Filter::bilinear) return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// The taps of one output position: a weighted sum over the input positions [first, last).
struct Taps {
  double center, shrink;
  int first, last;

  [[nodiscard]] TESSERA_HOST_DEVICE double weight(Filter filter, int position) const {
    return filter_value(filter, (position - center + 0.5) * shrink);
  }
};

// The resampling of `in` positions to `out` along one axis.
struct Resampling {
  Filter filter;
  int in;
  double scale, stretch, support;

  TESSERA_HOST_DEVICE Resampling(int in_, int out, Filter filter_)
      : filter(filter_),
        in(in_),
        scale(static_cast<double>(in) / out),
        stretch(scale > 1 ? scale : 1),
        support((filter == Filter::bilinear ? 1.0 : 2.0) * stretch) {}

  [[nodiscard]] TESSERA_HOST_DEVICE Taps taps(int x) const {
    const double center = (x + 0.5) * scale;
    const int from = static_cast<int>(center - support + 0.5), to = static_cast<int>(center + support + 0.5);
    return {center, 1.0 / stretch, from < 0 ? 0 : from, to > in ? in : to};
  }
};

// weight / sum, rounded to units of 2^-22.
[[nodiscard]] TESSERA_HOST_DEVICE inline int fixed_weight(double weight, double sum) {
  const double fraction = sum != 0 ? weight / sum : 0;
  return static_cast<int>(fraction * (1 << 22) + (fraction < 0 ? -0.5 : 0.5));
}

// The taps of all output positions along one axis, as many for each: the first input position, and weights in units of
// 2^-22 (out x taps), which are 0 for inputs that do not count.
struct Weights {
  int taps = 0;
  std::vector<int> first, values;
  std::vector<double> exact;

  void prepare(int in, int out, Filter filter) {
    const Resampling resampling(in, out, filter);
    taps = 0;
    for (int x = 0; x < out; ++x) {
      const Taps of = resampling.taps(x);
      taps = larger(taps, of.last - of.first);
    }
    first.resize(static_cast<std::size_t>(out));
    values.assign(static_cast<std::size_t>(out * taps), 0);
    exact.resize(static_cast<std::size_t>(taps));
    for (int x = 0; x < out; ++x) prepare_one(x, resampling.taps(x), filter, in);
  }

 private:
  void prepare_one(int x, const Taps& of, Filter filter, int in) {
    double sum = 0;
    for (int t = of.first; t < of.last; ++t)
      sum += exact[static_cast<std::size_t>(t - of.first)] = of.weight(filter, t);
    const int start = smaller(of.first, in - taps);
    first[static_cast<std::size_t>(x)] = start;
    for (int t = of.first; t < of.last; ++t)
      values[static_cast<std::size_t>(x * taps + t - start)] =
          fixed_weight(exact[static_cast<std::size_t>(t - of.first)], sum);
  }
};

[[nodiscard]] TESSERA_HOST_DEVICE inline std::uint8_t clip_fixed(int sum) {
  const int value = sum >> 22;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Resizes along the columns: assigns `out` rows of `bytes` bytes, each a weighted sum of `taps` rows of `from`, which
// start `stride` bytes apart. taps is w.taps: an integer, or a compile-time constant. The inner loop runs along a row,
// in memory order.
template <class Taps>
void sum_rows(const Weights& w, Taps taps, int out, int bytes, const std::uint8_t* from, int stride, std::uint8_t* to) {
  for (int y = 0; y < out; ++y, to += bytes) {
    const int* const weight = w.values.data() + y * taps;
    const std::uint8_t* const rows = from + w.first[static_cast<std::size_t>(y)] * stride;
    in_pieces(bytes, [=](int column, auto size) {
      int sums[largest_piece];
      for (int i = 0; i < size; ++i) sums[i] = 1 << 21;
      for (int t = 0; t < taps; ++t)
        for (int i = 0; i < size; ++i) sums[i] += rows[t * stride + column + i] * weight[t];
      for (int i = 0; i < size; ++i) to[column + i] = clip_fixed(sums[i]);
    });
  }
}

inline void resize_rows(const Weights& w, int out, int bytes, const std::uint8_t* from, int stride, std::uint8_t* to) {
  const auto resize = [&](auto taps) { sum_rows(w, taps, out, bytes, from, stride, to); };
  switch (w.taps) {
    case 2:
      return resize(std::integral_constant<int, 2>{});
    case 3:
      return resize(std::integral_constant<int, 3>{});
    case 4:
      return resize(std::integral_constant<int, 4>{});
    default:
      return resize(w.taps);
  }
}

}  // namespace detail

// Scratch of crop_resize, one for each thread.
struct ResizeScratch {
  detail::Weights weights;
  std::vector<std::uint8_t> strip, resized, middle;
};

// Assigns out (height x width): the pixels of `box` in `in`, resized. Pixels outside the box do not count; box must lie
// within `in`. The width is resized first, in transposed strips, then the height; a pass that does not change the size
// is left out.
inline void crop_resize(ImageView in, Box box, int height, int width, Filter filter, ResizeScratch& scratch,
                        Image& out) {
  const int channels = in.channels;
  const std::uint8_t* from = in.row(box.top) + box.left * channels;
  int stride = in.width * channels;
  if (width != box.width) {
    const int to_stride = width * channels;
    scratch.strip.resize(static_cast<std::size_t>(detail::strip_rows * box.width * channels));
    scratch.resized.resize(static_cast<std::size_t>(detail::strip_rows * to_stride));
    scratch.middle.resize(static_cast<std::size_t>(box.height * to_stride));
    scratch.weights.prepare(box.width, width, filter);
    detail::for_strips(box.height, [&](int y, int rows) {
      const int pixel = channels * rows;  // bytes of a pixel of all rows
      detail::transpose_bytes(rows, box.width * channels, from + y * stride, stride, scratch.strip.data(), rows);
      detail::resize_rows(scratch.weights, width, pixel, scratch.strip.data(), pixel, scratch.resized.data());
      detail::transpose_bytes(to_stride, rows, scratch.resized.data(), rows, scratch.middle.data() + y * to_stride,
                              to_stride);
    });
    from = scratch.middle.data();
    stride = to_stride;
  }
  out.resize(height, width, channels);
  if (height != box.height) {
    scratch.weights.prepare(box.height, height, filter);
    detail::resize_rows(scratch.weights, height, width * channels, from, stride, out.pixels.data());
  } else {
    for (int y = 0; y < height; ++y) std::copy_n(from + y * stride, width * channels, out.row(y));
  }
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
