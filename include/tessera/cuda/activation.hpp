// Element-wise activations, forward and backward.
#pragma once

#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int element_threads = 256;

// y[i] = function(x[i]...) for i in [0, count), a vector of `width` to a thread; count is a multiple of the width.
template <int width, class Function, class Scalar, class... Inputs>
__global__ void transform_kernel(index count, Function function, Scalar* y, Inputs... x) {
  const index at = (static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  if (at >= count) return;
  Accumulator<Scalar> result[width];
  const auto apply = [&](const auto&... values) {
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) result[i] = function(values.values[i]...);
  };
  const auto loaded = [&](const Scalar* from) {
    Vector<Accumulator<Scalar>, width> vector;
    load<width>(from + at, vector.values);
    return vector;
  };
  apply(loaded(x)...);
  store<width>(y + at, result);
}

// y = function(x...), element by element, of rows that start at multiples of a vector.
template <class Scalar, int columns, class Function, class... Inputs>
void transform(Backend<Scalar>& backend, Function function, Rows<Scalar, columns> y, Inputs... x) {
  constexpr int width = vector_width<Scalar>(columns);
  launch(backend, blocks_for(y.size(), element_threads, width), element_threads, 0,
         transform_kernel<width, Function, Scalar, Inputs...>, y.size(), function, y.data, x...);
}

template <class Activation>
struct Value {
  template <class Number>
  constexpr Number operator()(Number x) const {
    return Activation::value(x);
  }
};

template <class Activation>
struct TimesSlope {
  template <class Number>
  constexpr Number operator()(Number x, Number dy) const {
    return Activation::value_and_slope(x).slope * dy;
  }
};

}  // namespace detail

template <class Activation, class Scalar, int columns>
void activation_forward(Backend<Scalar>& backend, Rows<const Scalar, columns> x, Rows<Scalar, columns> y) {
  detail::transform(backend, detail::Value<Activation>{}, y, x.data);
}

template <class Activation, class Scalar, int columns>
void activation_backward(Backend<Scalar>& backend, Rows<const Scalar, columns> x, Rows<const Scalar, columns> dy,
                         Rows<Scalar, columns> dx) {
  detail::transform(backend, detail::TimesSlope<Activation>{}, dx, x.data, dy.data);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
