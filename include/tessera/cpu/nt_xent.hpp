// NT-Xent, the loss of SimCLR.
#pragma once

#include <cmath>

#include "tessera/core/math.hpp"
#include "tessera/core/nt_xent.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

inline constexpr index anchors_of_piece = 64;

// s (count x z.rows) receives the products of z's rows [first, first + count) with all rows of z. A row's product with
// itself is replaced by that with its other view, so that it is never the largest.
template <class Matmul, class Scalar, int columns>
void multiply_with_all(Rows<const Scalar, columns> z, index first, index count, Accumulator<Scalar>* s) {
  Matmul::multiply(count, z.rows, index{columns}, Operand<Scalar>{z.row(first), columns},
                   Operand<Scalar>{z.data, columns, true}, s, z.rows, false);
  for (index row = 0; row < count; ++row)
    s[row * z.rows + first + row] = s[row * z.rows + other_view(first + row, z.rows)];
}

}  // namespace detail

template <class Scalar, class Matmul, int columns>
void nt_xent_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> z, const double* temperature,
                     index first, Rows<Accumulator<Scalar>, 1> log_sums, double* loss) {
  using Sum = Accumulator<Scalar>;
  constexpr index grain = detail::anchors_of_piece;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  const index n = z.rows, count = log_sums.rows;
  Sum* const room = backend.arena().template take<Sum>(backend.pool().threads() * grain * n);
  double* const losses = backend.arena().template take<double>(count);
  backend.compute([&] {
    const Sum inverse_temperature = static_cast<Sum>(1.0 / *temperature);
    backend.for_pieces(count, grain, [&](index from, index to, int worker) {
      Sum* const similarities = room + worker * grain * n;
      detail::multiply_with_all<Matmul>(z, first + from, to - from, similarities);
      for (index row = from; row < to; ++row) {
        Sum* const s = similarities + (row - from) * n;
        const index anchor = first + row;
        const Sum positive = s[other_view(anchor, n)];
        Sum largest = s[0];
        for (index j = 1; j < n; ++j) largest = largest > s[j] ? largest : s[j];
        simd::transform(
            n, s, [=](auto a) { return math::exp((a - largest) * inverse_temperature); }, s);
        s[anchor] = 0;
        const double sum = static_cast<double>(simd::reduce(
            n, [](auto a) { return a; }, static_cast<const Sum*>(s)));
        *log_sums.row(row) = static_cast<Sum>(std::log(sum)) + largest * inverse_temperature;
        losses[row] = std::log(sum) - static_cast<double>((positive - largest) * inverse_temperature);
      }
    });
    double sum = 0;
    for (index row = 0; row < count; ++row) sum += losses[row];
    *loss += sum / static_cast<double>(n);
  });
}

template <class Scalar, class Matmul, int columns>
void nt_xent_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> z, const double* temperature,
                      index first, Rows<const Accumulator<Scalar>, 1> log_sums, Rows<Scalar, columns> d_z) {
  using Sum = Accumulator<Scalar>;
  constexpr index grain = detail::anchors_of_piece;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  const index n = z.rows;
  Sum* const room = backend.arena().template take<Sum>(backend.pool().threads() * grain * n);
  const index rounded = detail::rounds<Scalar> ? backend.pool().threads() * grain : 0;
  Scalar* const low = backend.arena().template take<Scalar>(rounded * n);
  Sum* const sums = backend.arena().template take<Sum>(rounded * columns);
  backend.compute([&] {
    const Sum inverse_temperature = static_cast<Sum>(1.0 / *temperature);
    const Sum share = static_cast<Sum>(1.0 / (static_cast<double>(n) * *temperature));
    backend.for_pieces(d_z.rows, grain, [&](index from, index to, int worker) {
      Sum* const weights = room + worker * grain * n;
      detail::multiply_with_all<Matmul>(z, first + from, to - from, weights);
      for (index row = from; row < to; ++row) {
        Sum* const w = weights + (row - from) * n;
        const index anchor = first + row;
        const Sum of_anchor = *log_sums.row(anchor);
        simd::transform(
            n, w,
            [=](auto similarity, auto of_candidate) {
              const auto logit = similarity * inverse_temperature;
              return (math::exp(logit - of_anchor) + math::exp(logit - of_candidate)) * share;
            },
            w, log_sums.data);
        w[anchor] = 0;
        w[other_view(anchor, n)] -= 2 * share;
      }
      detail::multiply_sums<Matmul>(to - from, index{columns}, n, weights, Operand<Scalar>{z.data, columns},
                                    low + worker * grain * n, sums + worker * grain * columns, d_z.row(from));
    });
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
