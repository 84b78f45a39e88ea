// Cross entropy of a classifier's logits with labels.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tessera/core/math.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// The target of one row: `off` everywhere, and `own` and `partner` more at two labels.
struct SoftTarget {
  double off, own, partner;

  SoftTarget(int classes, const double* smoothing, const double* lambda) {
    const double s = smoothing == nullptr ? 0.0 : *smoothing, share = lambda == nullptr ? 1.0 : *lambda;
    off = s / classes;
    own = (1.0 - s) * share;
    partner = (1.0 - s) * (1.0 - share);
  }
};

// One row: assigns to d the gradient softmax(z) - target, times `scale`, and returns the cross entropy. d may be z.
template <class Scalar>
double cross_entropy_row(index classes, const Scalar* z, int own, int partner, const SoftTarget& target, double scale,
                         Accumulator<Scalar>* d) {
  using Sum = Accumulator<Scalar>;
  const auto sum_of = [classes](const Sum* values) {
    return simd::reduce(
        classes, [](auto a) { return a; }, values);
  };
  Sum largest = static_cast<Sum>(z[0]);
  for (index c = 1; c < classes; ++c) largest = larger(largest, static_cast<Sum>(z[c]));
  simd::transform(
      classes, d, [=](auto a) { return a - largest; }, z);
  const double at_own = static_cast<double>(d[own]), at_partner = static_cast<double>(d[partner]);
  const Sum all = sum_of(d);
  simd::transform(
      classes, d, [](auto a) { return math::exp(a); }, d);
  const Sum sum = sum_of(d);
  const Sum share = static_cast<Sum>(scale) / sum, off = static_cast<Sum>(scale * target.off);
  simd::transform(
      classes, d, [=](auto a) { return a * share - off; }, d);
  d[own] -= static_cast<Sum>(scale * target.own);
  d[partner] -= static_cast<Sum>(scale * target.partner);
  return std::log(static_cast<double>(sum)) - target.own * at_own - target.partner * at_partner -
         target.off * static_cast<double>(all);
}

}  // namespace detail

template <class Scalar, class Matmul, int classes>
void cross_entropy(Backend<Scalar, Matmul>& backend, Rows<const Scalar, classes> logits, const int* labels,
                   const double* smoothing, const double* lambda, index total, double* loss,
                   Rows<Scalar, classes> d_logits) {
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  double* const losses = backend.arena().template take<double>(logits.rows);
  using Sum = Accumulator<Scalar>;
  Sum* const room = backend.arena().template take<Sum>(backend.pool().threads() * index{classes});
  backend.compute([&] {
    const detail::SoftTarget target(classes, smoothing, lambda);
    const auto known = [](int label) { return label >= 0 && label < classes; };
    const auto find = [&](index row, Sum* d) {
      const int own = labels[row], partner = lambda == nullptr ? own : labels[logits.rows - 1 - row];
      double value = std::numeric_limits<double>::quiet_NaN();
      if (known(own) && known(partner))
        value = detail::cross_entropy_row<Scalar>(classes, logits.row(row), own, partner, target,
                                                  1.0 / static_cast<double>(total), d);
      else
        std::fill_n(d, classes, std::numeric_limits<Sum>::quiet_NaN());
      if (d_logits.wanted())
        simd::transform(
            index{classes}, d_logits.row(row), [](auto a) { return a; }, d);
      return value;
    };
    backend.for_pieces(logits.rows, row_grain(classes), [&](index first, index last, int worker) {
      for (index row = first; row < last; ++row) losses[row] = find(row, room + worker * index{classes});
    });
    double sum = 0;
    for (index row = 0; row < logits.rows; ++row) sum += losses[row];
    *loss += sum / static_cast<double>(total);
  });
}

template <class Scalar, class Matmul>
void keep_losses(Backend<Scalar, Matmul>& backend, index count, const double* losses, double share, double* loss,
                 Accumulator<Scalar>* kept) {
  backend.compute([&] {
    double sum = 0;
    for (index i = 0; i < count; ++i) {
      sum += losses[i];
      kept[i] = static_cast<Accumulator<Scalar>>(losses[i]);
    }
    *loss = share * sum;
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
