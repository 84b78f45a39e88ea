// Random views of 8-bit images, made and normalized on the device. Same arithmetic as data/augment.hpp, to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/normalization.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// One view to make, of an image of interleaved channels somewhere in a buffer of bytes. draw_view() draws `view`.
struct ViewTask {
  index offset;           // of the image's first byte
  std::int32_t width;     // of the image
  std::int32_t channels;  // of the image: 1, or those of the views
  data::ViewParameters view;
};
static_assert(std::is_trivially_copyable_v<ViewTask>);

namespace detail {

// A view in the making is planar, so that four pixels of a channel are a word. Rows start an odd number of words apart,
// so that 32 of a row's bytes and 32 of a column's are equally fast.
template <int size>
struct ViewPlane {
  static constexpr int words = static_cast<int>(divide_up(size, 4));
  static constexpr int pitch = 4 * (words | 1);
  static constexpr int bytes = size * pitch;
  static constexpr int threads = size < 96 ? 256 : 1024;
};

// How one axis is resampled: what data::detail::Weights holds. Weights of taps past the first few are computed where
// they are used.
template <int size>
struct ViewAxis {
  static constexpr int kept = 11;
  double sum[size];
  int first[size], count[size], weights[kept][size];
  data::Filter filter;

  // For position x of the view, which is made of `in` positions of the crop. A barrier comes before other threads read.
  [[gnu::noinline]] __device__ void prepare(int in, int x, data::Filter chosen) {
    if (x == 0) filter = chosen;
    const data::detail::Resampling by(in, size, chosen);
    const data::detail::Taps taps = by.taps(x);
    double total = 0;
    for (int t = taps.first; t < taps.last; ++t) total += taps.weight(by.filter, t);
    sum[x] = total;
    first[x] = taps.first;
    count[x] = taps.last - taps.first;
    for (int t = 0; t < kept && t < count[x]; ++t) weights[t][x] = weight(in, x, taps.first + t, chosen);
  }

  [[nodiscard, gnu::noinline]] __device__ int weight(int in, int x, int position, data::Filter chosen) const {
    const data::detail::Resampling by(in, size, chosen);
    return data::detail::fixed_weight(by.taps(x).weight(by.filter, position), sum[x]);
  }

  // Calls function(input position, weight).
  template <class Function>
  __device__ void for_each_tap(int in, int x, Function function) const {
    const int from = first[x], all = count[x], stored = all < kept ? all : kept;
    for (int t = 0; t < stored; ++t) function(from + t, weights[t][x]);
    for (int t = stored; t < all; ++t) function(from + t, weight(in, x, from + t, filter));
  }
};

// Shared memory of a block, beside planes.
template <int size>
struct ViewRoom {
  static constexpr int bytes = ViewPlane<size>::bytes > 16 * 1024 ? ViewPlane<size>::bytes : 16 * 1024;
  static_assert(bytes >= data::most_channels * 256 * static_cast<int>(sizeof(float)));  // levels
  ViewAxis<size> columns, rows;
  std::uint32_t sums[warp_size];
  alignas(16) std::uint8_t values[bytes];  // rows of resized width; then a blurred plane; then the normalized levels
};

template <int channels, int size>
[[nodiscard]] constexpr index view_shared_bytes(bool planes_in_shared) {
  return static_cast<index>(sizeof(ViewRoom<size>)) + (planes_in_shared ? channels * ViewPlane<size>::bytes : 0);
}

// Calls function(i) for i in [0, count), the block's threads side by side.
template <int threads, class Function>
__device__ inline void for_each(int count, Function function) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) function(i);
}

using Word = Vector<std::uint8_t, 4>;

__device__ inline const Word& word_at(const std::uint8_t* bytes) {
  return *reinterpret_cast<const Word*>(bytes);
}
__device__ inline Word& word_at(std::uint8_t* bytes) {
  return *reinterpret_cast<Word*>(bytes);
}

inline constexpr int half_weight = 1 << 21;

// Part of an image.
template <int channels>
struct ViewCrop {
  const std::uint8_t* pixels;
  int stride;  // bytes from row to row
  int height, width;
};

// Rows [row, row + count) of a crop, in column x of the view. Rows past its end repeat the last.
template <int count, int channels, int size>
__device__ inline void resize_width(const ViewCrop<channels>& crop, const ViewAxis<size>& axis, int x, int row,
                                    std::uint8_t (&to)[count][channels]) {
  int rows[count], sums[count][channels];
  TESSERA_UNROLL
  for (int i = 0; i < count; ++i) {
    rows[i] = (row + i < crop.height ? row + i : crop.height - 1) * crop.stride;
    TESSERA_UNROLL
    for (int c = 0; c < channels; ++c) sums[i][c] = half_weight;
  }
  axis.for_each_tap(crop.width, x, [&](int position, int weight) {
    TESSERA_UNROLL
    for (int i = 0; i < count; ++i) {
      TESSERA_UNROLL
      for (int c = 0; c < channels; ++c) sums[i][c] += __ldg(crop.pixels + rows[i] + position * channels + c) * weight;
    }
  });
  TESSERA_UNROLL
  for (int i = 0; i < count; ++i) {
    TESSERA_UNROLL
    for (int c = 0; c < channels; ++c) to[i][c] = data::detail::clip_fixed(sums[i][c]);
  }
}

// planes = the crop, resized, every pixel for itself: slow, but needs no room.
template <int channels, int size>
[[gnu::noinline]] __device__ void resize_pixels(ViewCrop<channels> crop, const ViewRoom<size>& room,
                                                std::uint8_t* planes) {
  using Plane = ViewPlane<size>;
  for_each<Plane::threads>(size * size, [&](int i) {
    const int x = i % size, y = i / size;
    int sums[channels];
    for (int& sum : sums) sum = half_weight;
    room.rows.for_each_tap(crop.height, y, [&](int row, int weight) {
      std::uint8_t values[1][channels];
      resize_width(crop, room.columns, x, row, values);
      for (int c = 0; c < channels; ++c) sums[c] += values[0][c] * weight;
    });
    for (int c = 0; c < channels; ++c)
      planes[c * Plane::bytes + y * Plane::pitch + x] = data::detail::clip_fixed(sums[c]);
  });
}

// planes = the crop, resized: strip by strip of the view, first the width of all rows that the strip is made of.
template <int channels, int size>
__device__ void resize_crop(const ViewCrop<channels>& crop, data::Filter filter, ViewRoom<size>& room,
                            std::uint8_t* planes) {
  using Plane = ViewPlane<size>;
  constexpr int threads = Plane::threads, room_rows = ViewRoom<size>::bytes / (channels * Plane::pitch);
  for_each<threads>(2 * size, [&](int i) {
    if (i < size)
      room.columns.prepare(crop.width, i, filter);
    else
      room.rows.prepare(crop.height, i - size, filter);
  });
  __syncthreads();

  const data::detail::Resampling rows(crop.height, size, filter);
  const double row_span = 2 * rows.support + 1;
  if (row_span > room_rows) {  // not even one row of the view
    resize_pixels(crop, room, planes);
    __syncthreads();
    return;
  }
  const int strip = 1 + static_cast<int>((room_rows - row_span) / rows.scale);
  for (int y0 = 0; y0 < size; y0 += strip) {
    const int y1 = y0 + strip < size ? y0 + strip : size;
    const int first = room.rows.first[y0], last = room.rows.first[y1 - 1] + room.rows.count[y1 - 1];
    constexpr int at_once = 4;
    for_each<threads>(static_cast<int>(divide_up(last - first, at_once)) * size, [&](int i) {
      const int x = i % size, row = first + i / size * at_once;
      std::uint8_t values[at_once][channels];
      resize_width(crop, room.columns, x, row, values);
      TESSERA_UNROLL
      for (int k = 0; k < at_once; ++k) {
        if (row + k >= last) break;
        TESSERA_UNROLL
        for (int c = 0; c < channels; ++c)
          room.values[((row + k - first) * channels + c) * Plane::pitch + x] = values[k][c];
      }
    });
    __syncthreads();
    for_each<threads>((y1 - y0) * channels * Plane::words, [&](int i) {
      const int column = i % Plane::words * 4, c = i / Plane::words % channels, y = y0 + i / Plane::words / channels;
      int sums[4] = {half_weight, half_weight, half_weight, half_weight};
      room.rows.for_each_tap(crop.height, y, [&](int row, int weight) {
        const Word word = word_at(room.values + ((row - first) * channels + c) * Plane::pitch + column);
        TESSERA_UNROLL
        for (int k = 0; k < 4; ++k) sums[k] += word.values[k] * weight;
      });
      Word word;
      TESSERA_UNROLL
      for (int k = 0; k < 4; ++k) word.values[k] = data::detail::clip_fixed(sums[k]);
      word_at(planes + c * Plane::bytes + y * Plane::pitch + column) = word;
    });
    __syncthreads();
  }
}

// Calls function(pixel, valid) for all pixels, an array of channels each, and puts back what it leaves there. Every
// thread has the same pixels in every call. Rows are padded with pixels that are not valid.
template <int channels, int size, class Function>
__device__ void for_each_pixel(std::uint8_t* planes, Function function) {
  using Plane = ViewPlane<size>;
  for_each<Plane::threads>(size * Plane::words, [&](int i) {
    const int column = i % Plane::words * 4;
    std::uint8_t* const at = planes + i / Plane::words * Plane::pitch + column;
    Word words[channels];
    TESSERA_UNROLL
    for (int c = 0; c < channels; ++c) words[c] = word_at(at + c * Plane::bytes);
    TESSERA_UNROLL
    for (int k = 0; k < 4; ++k) {
      int pixel[channels];
      TESSERA_UNROLL
      for (int c = 0; c < channels; ++c) pixel[c] = words[c].values[k];
      function(pixel, column + k < size);
      TESSERA_UNROLL
      for (int c = 0; c < channels; ++c) words[c].values[k] = static_cast<std::uint8_t>(pixel[c]);
    }
    TESSERA_UNROLL
    for (int c = 0; c < channels; ++c) word_at(at + c * Plane::bytes) = words[c];
  });
}

template <int channels>
__device__ inline int luminance_of(const int (&pixel)[channels]) {
  if constexpr (channels == 1)
    return pixel[0];
  else
    return data::luminance(pixel[0], pixel[1], pixel[2]);
}

// One colour operation, as data/color.hpp does it.
template <int channels, int size>
[[gnu::noinline]] __device__ void change_colors(data::ColorStep step, std::uint8_t* planes, std::uint32_t* sums) {
  using data::ColorOperation;
  const auto blend_with = [&](int degenerate) {
    for_each_pixel<channels, size>(planes, [&](int(&pixel)[channels], bool) {
      TESSERA_UNROLL
      for (int& value : pixel) value = data::detail::blend(degenerate, value, step.amount);
    });
  };
  if (step.operation == ColorOperation::brightness) blend_with(0);
  if (step.operation == ColorOperation::contrast) {
    std::uint32_t sum = 0;
    for_each_pixel<channels, size>(planes, [&](int(&pixel)[channels], bool valid) {
      if (valid) sum += static_cast<std::uint32_t>(luminance_of(pixel));
    });
    blend_with(data::detail::mean_luminance(block_sum(sum, sums), size * size));
  }
  if constexpr (channels == 3) {
    if (step.operation == ColorOperation::saturation)
      for_each_pixel<channels, size>(planes, [&](int(&pixel)[channels], bool) {
        const int grey = luminance_of(pixel);
        TESSERA_UNROLL
        for (int& value : pixel) value = data::detail::blend(grey, value, step.amount);
      });
    if (step.operation == ColorOperation::hue) {
      const int turn = data::detail::hue_turn(step.amount);
      for_each_pixel<channels, size>(planes, [&](int(&pixel)[channels], bool) {
        data::detail::Hsv hsv = data::detail::to_hsv(pixel[0], pixel[1], pixel[2]);
        hsv.hue = (hsv.hue + turn) & 255;
        TESSERA_UNROLL
        for (int c = 0; c < 3; ++c) pixel[c] = data::detail::from_hsv(hsv, 2 * c);
      });
    }
    if (step.operation == ColorOperation::grayscale)
      for_each_pixel<channels, size>(
          planes, [&](int(&pixel)[channels], bool) { pixel[0] = pixel[1] = pixel[2] = luminance_of(pixel); });
  }
}

// One box blur of all lines of a plane: rows (step 1, lines a pitch apart), or columns. A thread runs along a piece of
// a line.
template <int size>
__device__ void blur_lines(const data::BoxBlur& box, int step, int line_step, const std::uint8_t* __restrict__ from,
                           std::uint8_t* __restrict__ to) {
  constexpr int threads = ViewPlane<size>::threads, pieces = threads / size > 0 ? threads / size : 1;
  constexpr int length = static_cast<int>(divide_up(size, pieces));
  for_each<threads>(size * pieces, [&](int i) {
    const int first = i / size * length, last = first + length < size ? first + length : size;
    const std::uint8_t* const line = from + i % size * line_step;
    std::uint8_t* const out = to + i % size * line_step;
    const auto value = [&](int at) {
      return static_cast<std::uint32_t>(line[(at < 0 ? 0 : at < size ? at : size - 1) * step]);
    };
    std::uint32_t sum = 0, before = value(first - box.whole - 1);
    for (int at = first - box.whole; at <= first + box.whole; ++at) sum += value(at);
    for (int at = first; at < last; ++at) {
      const std::uint32_t after = value(at + box.whole + 1), leaving = value(at - box.whole);
      out[at * step] = box.value(sum, before + after);
      sum += after - leaving;
      before = leaving;
    }
  });
  __syncthreads();
}

// All of a view but what write_view does. Views of other than 1 or 3 channels have no colour steps. Returns how many of
// the planes differ: 1 or `channels`.
template <int channels, int size>
__device__ int make_view(const ViewTask& task, const std::uint8_t* pixels, ViewRoom<size>& room, std::uint8_t* planes) {
  using Plane = ViewPlane<size>;
  const data::ViewParameters& view = task.view;
  const int stride = task.width * channels;
  const std::uint8_t* const first = pixels + task.offset + view.crop.top * stride + view.crop.left * channels;
  resize_crop<channels, size>({first, stride, view.crop.height, view.crop.width}, view.filter, room, planes);
  int different = channels;
  for (int i = 0; i < view.color_steps; ++i) {
    const data::ColorStep step = view.colors[static_cast<std::size_t>(i)];
    if constexpr (channels == 1 || channels == 3) change_colors<channels, size>(step, planes, room.sums);
    if (step.operation == data::ColorOperation::grayscale) different = 1;
  }
  __syncthreads();
  if (view.blur_sigma > 0) {
    const data::BoxBlur box = data::BoxBlur::for_gaussian(view.blur_sigma);
    for (int c = 0; c < different; ++c) {
      std::uint8_t* const plane = planes + c * Plane::bytes;
      for (int pass = 0; pass < 6; ++pass) {
        const bool along_rows = pass < 3, there = pass % 2 == 0;
        blur_lines<size>(box, along_rows ? 1 : Plane::pitch, along_rows ? Plane::pitch : 1, there ? plane : room.values,
                         there ? room.values : plane);
      }
    }
  }
  return different;
}

// Row `number` of to = the view, solarized, flipped and normalized by a table of the 256 levels. The place of a vector
// is a multiple of its width to the compiler, too, which otherwise takes vectors to pieces here.
template <int channels, int size, class Scalar>
__device__ void write_view(const data::ViewParameters& view, const data::Normalization& normalization, int different,
                           const std::uint8_t* planes, float* levels, index number, Scalar* to) {
  using Plane = ViewPlane<size>;
  for_each<Plane::threads>(channels * 256, [&](int i) {
    const int level = view.solarize ? data::detail::solarized(i % 256) : i % 256;
    levels[i] = data::normalized(level, i / 256, normalization);
  });
  __syncthreads();
  constexpr int width = vector_width<Scalar>(size), vectors = size / width, piece = width < 4 ? width : 4;
  const bool flip = view.flip;
  for_each<Plane::threads>(channels * size * vectors, [&](int i) {
    const int x = i % vectors * width, y = i / vectors % size, c = i / vectors / size;
    const std::uint8_t* const from =
        planes + (different == 1 ? 0 : c) * Plane::bytes + y * Plane::pitch + (flip ? size - width - x : x);
    float values[width], mirrored[width];
    TESSERA_UNROLL
    for (int first = 0; first < width; first += piece) {
      const auto part = *reinterpret_cast<const Vector<std::uint8_t, piece>*>(from + first);
      TESSERA_UNROLL
      for (int k = 0; k < piece; ++k) values[first + k] = levels[c * 256 + part.values[k]];
    }
    TESSERA_UNROLL
    for (int k = 0; k < width; ++k) mirrored[k] = flip ? values[width - 1 - k] : values[k];
    store<width>(to + (number * (channels * size * vectors) + i) * width, mirrored);
  });
}

// A block makes one view after the other. Barriers between two views are those of the second's resizing.
template <int channels, int size, bool planes_in_shared, class Scalar>
__global__ void __launch_bounds__(ViewPlane<size>::threads)
    augment_kernel(index views, const ViewTask* tasks, const std::uint8_t* pixels, data::Normalization normalization,
                   std::uint8_t* scratch, Scalar* to) {
  auto& room = *reinterpret_cast<ViewRoom<size>*>(shared_memory());
  std::uint8_t* planes;
  if constexpr (planes_in_shared)
    planes = reinterpret_cast<std::uint8_t*>(shared_memory()) + sizeof(ViewRoom<size>);
  else
    planes = scratch + static_cast<index>(blockIdx.x) * channels * ViewPlane<size>::bytes;
  for (index i = blockIdx.x; i < views; i += gridDim.x) {
    const ViewTask& task = tasks[i];
    const int different =
        task.channels == 1 ? make_view<1>(task, pixels, room, planes) : make_view<channels>(task, pixels, room, planes);
    write_view<channels, size>(task.view, normalization, different, planes, reinterpret_cast<float*>(room.values), i,
                               to);
  }
}

// Planes are kept in global memory where a block's shared memory is too small for them.
template <bool planes_in_shared, int channels, int size, class Scalar>
void augment(Backend<Scalar>& backend, const ViewTask* tasks, index views, const std::uint8_t* pixels,
             const data::Normalization& normalization, Rows<Scalar, channels * size * size> to, int multiprocessors) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index blocks = planes_in_shared || views < multiprocessors ? views : multiprocessors;
  std::uint8_t* const scratch =
      backend.arena().template take<std::uint8_t>(planes_in_shared ? 0 : blocks * channels * ViewPlane<size>::bytes);
  launch(backend, dim3(static_cast<unsigned>(blocks)), ViewPlane<size>::threads,
         view_shared_bytes<channels, size>(planes_in_shared), augment_kernel<channels, size, planes_in_shared, Scalar>,
         views, tasks, pixels, normalization, scratch, to.data);
}

}  // namespace detail

// to[i] = the planar, normalized view of size x size pixels that tasks[i] describes, of an image in `pixels`, for i in
// [0, views); tasks and pixels are on the device. Grey images fill all channels. One block to a view.
template <int channels, int size, class Scalar>
void augment(Backend<Scalar>& backend, const ViewTask* tasks, index views, const std::uint8_t* pixels,
             const data::Normalization& normalization, Rows<Scalar, channels * size * size> to) {
  static_assert(channels >= 1 && channels <= data::most_channels);
  constexpr index most_shared_bytes = 227 * 1024, wanted = detail::view_shared_bytes<channels, size>(true);
  static_assert(detail::view_shared_bytes<channels, size>(false) <= most_shared_bytes,
                "tessera: views of this size are too large to be made on a device");
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, backend.device()), "cudaDeviceGetAttribute");
    return value;
  };
  if constexpr (wanted <= most_shared_bytes) {
    if (wanted <= attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))
      return detail::augment<true, channels, size>(backend, tasks, views, pixels, normalization, to, 0);
  }
  detail::augment<false, channels, size>(backend, tasks, views, pixels, normalization, to,
                                         attribute(cudaDevAttrMultiProcessorCount));
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
