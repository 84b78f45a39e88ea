// Cosine similarities and the contrastive loss.
#pragma once

#include <cmath>

#include "tessera/core/info_nce.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

inline constexpr double smallest_norm = 1e-12;  // as in PyTorch's F.normalize

template <class Scalar, class Matmul, int columns>
void normalize_rows(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x, Rows<Scalar, columns> y,
                    Rows<Accumulator<Scalar>, 1> inverse_norms) {
  using Sum = Accumulator<Scalar>;
  for_rows(backend, x.rows, columns, [&](index row) {
    const Sum norm = std::sqrt(simd::reduce(
        index{columns}, [](auto a) { return a * a; }, x.row(row)));
    const Sum inverse = Sum(1) / (norm > Sum(smallest_norm) ? norm : Sum(smallest_norm));
    *inverse_norms.row(row) = inverse;
    simd::transform(
        index{columns}, y.row(row), [inverse](auto a) { return a * inverse; }, x.row(row));
  });
}

template <class Scalar, class Matmul, int columns>
void normalize_rows_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> y,
                             Rows<const Accumulator<Scalar>, 1> inverse_norms, Rows<const Scalar, columns> dy,
                             Rows<Scalar, columns> dx) {
  using Sum = Accumulator<Scalar>;
  for_rows(backend, y.rows, columns, [&](index row) {
    const Sum along = simd::reduce(
        index{columns}, [](auto a, auto b) { return a * b; }, y.row(row), dy.row(row));
    const Sum inverse = *inverse_norms.row(row);
    simd::transform(
        index{columns}, dx.row(row), [=](auto a, auto d) { return (d - a * along) * inverse; }, y.row(row),
        dy.row(row));
  });
}

template <class Scalar, class Matmul, int columns>
void info_nce(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> q, Rows<const Scalar, columns> k,
              InfoNce term, const double* temperature, index first_label, index total, double* loss,
              Rows<Scalar, columns> d_q) {
  constexpr index grain = 64;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  using Sum = Accumulator<Scalar>;
  const index rounded = detail::rounds<Scalar> && d_q.wanted() ? q.rows : 0;
  Sum* const logits = backend.arena().template take<Sum>(q.rows * k.rows);
  Scalar* const low = backend.arena().template take<Scalar>(rounded * k.rows);
  Sum* const sums = backend.arena().template take<Sum>(rounded * columns);
  double* const losses = backend.arena().template take<double>(q.rows);
  backend.compute([&] {
    const Sum inverse_temperature = static_cast<Sum>(1.0 / *temperature);
    const Sum gradient_scale = static_cast<Sum>(term.of_gradient(*temperature) / static_cast<double>(total));
    backend.for_pieces(q.rows, grain, [&](index first, index last, int) {
      Matmul::multiply(last - first, k.rows, index{columns}, Operand<Scalar>{q.row(first), columns},
                       Operand<Scalar>{k.data, columns, true}, logits + first * k.rows, k.rows, false);
      for (index row = first; row < last; ++row) {
        Sum* const z = logits + row * k.rows;
        const index label = first_label + row;
        Sum largest = z[0];
        for (index j = 1; j < k.rows; ++j) largest = largest > z[j] ? largest : z[j];
        const Sum positive = (z[label] - largest) * inverse_temperature;
        simd::transform(
            k.rows, z, [=](auto a) { return math::exp((a - largest) * inverse_temperature); }, z);
        const Sum sum = simd::reduce(
            k.rows, [](auto a) { return a; }, static_cast<const Sum*>(z));
        losses[row] = static_cast<double>(std::log(sum)) - static_cast<double>(positive);
        const Sum scale = gradient_scale / sum;
        simd::transform(
            k.rows, z, [=](auto a) { return a * scale; }, z);
        z[label] -= gradient_scale;
      }
      if (d_q.wanted())
        detail::multiply_sums<Matmul>(last - first, index{columns}, k.rows, logits + first * k.rows,
                                      Operand<Scalar>{k.data, columns}, low + first * k.rows, sums + first * columns,
                                      d_q.row(first));
    });
    double sum = 0;
    for (index row = 0; row < q.rows; ++row) sum += losses[row];
    *loss += term.of_loss(*temperature) * sum / static_cast<double>(total);
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
