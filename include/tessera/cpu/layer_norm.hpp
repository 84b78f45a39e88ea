// Layer normalization over the columns of each row.
#pragma once

#include <cmath>

#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <class Scalar, class Matmul, int columns>
void layer_norm_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x,
                        const Accumulator<Scalar>* weight, const Accumulator<Scalar>* bias, double epsilon,
                        Rows<Accumulator<Scalar>, 2> statistics, Rows<Scalar, columns> y) {
  using Sum = Accumulator<Scalar>;
  constexpr Sum share = Sum(1) / Sum(columns);
  for_rows(backend, x.rows, columns, [&](index row) {
    const Scalar* const from = x.row(row);
    const Sum mean = simd::reduce(
                         index{columns}, [](auto a) { return a; }, from) /
                     Sum(columns);
    // Lanes beyond the end hold 0 - mean and must not count: the sum of squares is taken about the mean in two parts.
    Sum squares = 0;
    constexpr index whole = columns / simd::lanes<Scalar> * simd::lanes<Scalar>;
    squares += simd::reduce(
        whole, [mean](auto a) { return (a - mean) * (a - mean); }, from);
    for (index c = whole; c < columns; ++c) {
      const Sum off = static_cast<Sum>(from[c]) - mean;
      squares += off * off;
    }
    const Sum scale = Sum(1) / std::sqrt(share * squares + Sum(epsilon));
    statistics.row(row)[0] = mean;
    statistics.row(row)[1] = scale;
    simd::transform(
        index{columns}, y.row(row), [=](auto a, auto g, auto b) { return (a - mean) * scale * g + b; }, from, weight,
        bias);
  });
}

template <class Scalar, class Matmul, int columns>
void layer_norm_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x,
                         const Accumulator<Scalar>* weight, Rows<const Accumulator<Scalar>, 2> statistics,
                         Rows<const Scalar, columns> dy, Rows<const Scalar, columns> residual, Rows<Scalar, columns> dx,
                         Accumulator<Scalar>* d_weight, Accumulator<Scalar>* d_bias) {
  using Sum = Accumulator<Scalar>;
  constexpr index grain = 128;
  constexpr Sum share = Sum(1) / Sum(columns);
  const index pieces = divide_up(x.rows, grain);
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Sum* const partial = backend.arena().template take<Sum>(pieces * 2 * columns);
  backend.for_pieces(x.rows, grain, [&](index first, index last, int) {
    Sum* const weight_sum = partial + first / grain * 2 * columns;
    Sum* const bias_sum = weight_sum + columns;
    std::memset(weight_sum, 0, 2 * columns * sizeof(Sum));
    for (index row = first; row < last; ++row) {
      const Sum mean = statistics.row(row)[0], scale = statistics.row(row)[1];
      const Scalar* const from = x.row(row);
      const Scalar* const gradient = dy.row(row);
      simd::transform(
          index{columns}, weight_sum, [=](auto s, auto a, auto d) { return s + d * ((a - mean) * scale); }, weight_sum,
          from, gradient);
      simd::transform(
          index{columns}, bias_sum, [](auto s, auto d) { return s + d; }, bias_sum, gradient);
      const Sum along_one = share * simd::reduce(
                                        index{columns}, [](auto d, auto g) { return d * g; }, gradient, weight);
      const Sum along_x =
          share * scale *
          simd::reduce(
              index{columns}, [=](auto d, auto g, auto a) { return d * g * (a - mean); }, gradient, weight, from);
      const auto through = [=](auto d, auto g, auto a) {
        return scale * (d * g - along_one - (a - mean) * scale * along_x);
      };
      if (!residual.wanted())
        simd::transform(index{columns}, dx.row(row), through, gradient, weight, from);
      else
        simd::transform(
            index{columns}, dx.row(row), [=](auto d, auto g, auto a, auto r) { return r + through(d, g, a); }, gradient,
            weight, from, residual.row(row));
    }
  });
  backend.compute([&] {
    for (index piece = 0; piece < pieces; ++piece) {
      const Sum* const from = partial + piece * 2 * columns;
      const auto add = [](auto a, auto b) { return a + b; };
      const auto copy = [](auto, auto b) { return b; };
      const auto collect = [&](Sum* to, const Sum* part) {
        if (piece == 0)
          simd::transform(index{columns}, to, copy, to, part);
        else
          simd::transform(index{columns}, to, add, to, part);
      };
      collect(d_weight, from);
      collect(d_bias, from + columns);
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
