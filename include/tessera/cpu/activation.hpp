// Element-wise activations, forward and backward.
#pragma once

#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// d_x = d_y * slope(x), y = value(x).
template <class Activation, class Scalar>
[[gnu::always_inline]] inline void activation_backward(index count, const Scalar* x, const Accumulator<Scalar>* d_y,
                                                       Scalar* d_x, Scalar* y) {
  constexpr index width = simd::lanes<Scalar>;
  index i = 0;
  for (; i + width <= count; i += width) {
    const auto [value, slope] = Activation::value_and_slope(simd::load(x + i));
    simd::store(d_x + i, simd::load(d_y + i) * slope);
    simd::store(y + i, value);
  }
  if (i == count) return;
  const auto [value, slope] = Activation::value_and_slope(simd::load_part(x + i, count - i));
  simd::store_part(d_x + i, simd::load_part(d_y + i, count - i) * slope, count - i);
  simd::store_part(y + i, value, count - i);
}

}  // namespace detail

template <class Activation, class Scalar, class Matmul, int columns>
void activation_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x, Rows<Scalar, columns> y) {
  for_rows(backend, x.rows, columns, [&](index row) {
    simd::transform(
        index{columns}, y.row(row), [](auto a) { return Activation::value(a); }, x.row(row));
  });
}

template <class Activation, class Scalar, class Matmul, int columns>
void activation_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x,
                         Rows<const Scalar, columns> dy, Rows<Scalar, columns> dx) {
  for_rows(backend, x.rows, columns, [&](index row) {
    simd::transform(
        index{columns}, dx.row(row), [](auto a, auto d) { return Activation::value_and_slope(a).slope * d; },
        x.row(row), dy.row(row));
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
