// Passes over flat buffers: moving averages, optimizer updates, norms.
#pragma once

#include <cmath>
#include <span>

#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/core/update.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

inline constexpr index update_grain = 1 << 14;

template <class Scalar>
[[gnu::always_inline]] inline simd::Pack<Scalar> square_root(simd::Pack<Scalar> x) {
  simd::Pack<Scalar> y;
  for (index lane = 0; lane < simd::lanes<Scalar>; ++lane) y[lane] = std::sqrt(x[lane]);
  return y;
}

}  // namespace detail

// average = m average + (1 - m) x.
template <class Scalar, class Matmul>
void moving_average(Backend<Scalar, Matmul>& backend, index count, const double* m, const Scalar* x, Scalar* average) {
  if (backend.planning()) return;
  const Scalar keep = static_cast<Scalar>(*m), take = static_cast<Scalar>(1.0 - *m);
  backend.pool().for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    simd::transform(
        last - first, average + first, [=](auto a, auto b) { return keep * a + take * b; }, average + first, x + first);
  });
}

// *blocked = 1 if the loss or any of the values is not finite, else 0. What is blocked changes nothing: updates leave
// weights and states as they are.
template <class Scalar, class Matmul>
void check_finite(Backend<Scalar, Matmul>& backend, index count, const Scalar* values, const double* loss,
                  double* blocked) {
  if (backend.planning()) return;
  *blocked = math::all_finite(loss, 1) && math::all_finite(values, count) ? 0 : 1;
}

// AdamW, docs/method.md, 4.1: weights first decay by learning_rate * weight_decay.
template <class Scalar, class Matmul>
void adamw_update(Backend<Scalar, Matmul>& backend, index count, const AdamCoefficients* coefficients,
                  const double* blocked, const Scalar* gradient, Scalar* weight, Scalar* moment1, Scalar* moment2) {
  if (backend.planning() || *blocked != 0) return;
  const AdamCoefficients& c = *coefficients;
  const auto scalar = [](double value) { return static_cast<Scalar>(value); };
  const Scalar decay = scalar(1.0 - c.learning_rate * c.weight_decay), beta1 = scalar(c.beta1), beta2 = scalar(c.beta2);
  const Scalar other1 = scalar(1.0 - c.beta1), other2 = scalar(1.0 - c.beta2), epsilon = scalar(c.epsilon);
  const Scalar rate = scalar(c.learning_rate * c.correction1), inverse_bias = scalar(std::sqrt(c.correction2));
  backend.pool().for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    const index size = last - first;
    const Scalar* const g = gradient + first;
    Scalar* const m = moment1 + first;
    Scalar* const v = moment2 + first;
    simd::transform(
        size, m, [=](auto a, auto b) { return beta1 * a + other1 * b; }, m, g);
    simd::transform(
        size, v, [=](auto a, auto b) { return beta2 * a + other2 * (b * b); }, v, g);
    simd::transform(
        size, weight + first,
        [=](auto p, auto a, auto b) {
          return p * decay - rate * a / (detail::square_root<Scalar>(b) * inverse_bias + epsilon);
        },
        weight + first, m, v);
  });
}

namespace detail {

// y = a x + b y.
template <class Scalar, class Matmul>
void scale_and_add(Backend<Scalar, Matmul>& backend, index count, double a, const Scalar* x, double b, Scalar* y) {
  const Scalar by = static_cast<Scalar>(a), keep = static_cast<Scalar>(b);
  backend.pool().for_pieces(count, update_grain, [&](index first, index last, int) {
    simd::transform(
        last - first, y + first, [=](auto p, auto q) { return by * p + keep * q; }, x + first, y + first);
  });
}

// The sum of squares of a + b_scale b; b may be null. In double, in a fixed order.
template <class Scalar>
[[nodiscard]] double squares(index count, const Scalar* a, double b_scale = 0, const Scalar* b = nullptr) {
  const Scalar scale = static_cast<Scalar>(b_scale);
  double sum = 0;
  for (index first = 0; first < count; first += 4096) {
    const index size = count - first < 4096 ? count - first : 4096;
    sum +=
        static_cast<double>(b == nullptr ? simd::reduce(
                                               size, [](auto x) { return x * x; }, a + first)
                                         : simd::reduce(
                                               size, [=](auto x, auto y) { return (x + scale * y) * (x + scale * y); },
                                               a + first, b + first));
  }
  return sum;
}

// |a| / |b|, or 1 if either is zero.
[[nodiscard]] inline double ratio_of_norms(double squares_a, double squares_b) {
  return squares_a > 0 && squares_b > 0 ? std::sqrt(squares_a) / std::sqrt(squares_b) : 1.0;
}

}  // namespace detail

// LAMB for one tensor, docs/method.md, 4.4: Adam's bias-corrected direction + weight_decay * weight, scaled by
// |weight| / |direction|.
template <class Scalar, class Matmul>
void lamb_update(Backend<Scalar, Matmul>& backend, index count, const AdamCoefficients* coefficients,
                 const double* blocked, const Scalar* gradient, Scalar* weight, Scalar* moment1, Scalar* moment2,
                 Scalar* direction) {
  if (backend.planning() || *blocked != 0) return;
  const AdamCoefficients& c = *coefficients;
  const auto scalar = [](double value) { return static_cast<Scalar>(value); };
  const Scalar beta1 = scalar(c.beta1), beta2 = scalar(c.beta2), decay = scalar(c.weight_decay);
  const Scalar other1 = scalar(1.0 - c.beta1), other2 = scalar(1.0 - c.beta2), epsilon = scalar(c.epsilon);
  const Scalar correction1 = scalar(c.correction1), correction2 = scalar(c.correction2);
  backend.pool().for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    const index size = last - first;
    const Scalar* const g = gradient + first;
    Scalar* const m = moment1 + first;
    Scalar* const v = moment2 + first;
    simd::transform(
        size, m, [=](auto a, auto b) { return beta1 * a + other1 * b; }, m, g);
    simd::transform(
        size, v, [=](auto a, auto b) { return beta2 * a + other2 * (b * b); }, v, g);
    simd::transform(
        size, direction + first,
        [=](auto p, auto a, auto b) {
          return a * correction1 / (detail::square_root<Scalar>(b * correction2) + epsilon) + decay * p;
        },
        weight + first, m, v);
  });
  const double ratio =
      detail::ratio_of_norms(detail::squares<Scalar>(count, weight), detail::squares<Scalar>(count, direction));
  detail::scale_and_add(backend, count, -c.learning_rate * ratio, static_cast<const Scalar*>(direction), 1.0, weight);
}

// Momentum SGD with coupled weight decay, docs/method.md, 4.2.
template <class Scalar, class Matmul>
void sgd_update(Backend<Scalar, Matmul>& backend, index count, const SgdCoefficients* coefficients,
                const double* blocked, const Scalar* gradient, Scalar* weight, Scalar* velocity) {
  if (backend.planning() || *blocked != 0) return;
  const SgdCoefficients& c = *coefficients;
  detail::scale_and_add(backend, count, 1.0, gradient, c.momentum, velocity);
  if (c.weight_decay != 0)
    detail::scale_and_add(backend, count, c.weight_decay, static_cast<const Scalar*>(weight), 1.0, velocity);
  detail::scale_and_add(backend, count, -c.learning_rate, static_cast<const Scalar*>(velocity), 1.0, weight);
}

// LARS for one tensor, docs/method.md, 4.3: a matrix decays, and its rate is trust * |weight| / |gradient + decay|;
// other tensors have neither.
template <class Scalar, class Matmul>
void lars_update(Backend<Scalar, Matmul>& backend, index count, const SgdCoefficients* coefficients,
                 const double* blocked, bool matrix, const Scalar* gradient, Scalar* weight, Scalar* velocity) {
  if (backend.planning() || *blocked != 0) return;
  const SgdCoefficients& c = *coefficients;
  double rate = 1;
  if (matrix) {
    const double weights = detail::squares<Scalar>(count, weight);
    const double updates = detail::squares<Scalar>(count, gradient, c.weight_decay, weight);
    if (weights > 0 && updates > 0) rate = c.trust * detail::ratio_of_norms(weights, updates);
  }
  detail::scale_and_add(backend, count, rate, gradient, c.momentum, velocity);
  if (matrix && c.weight_decay != 0)
    detail::scale_and_add(backend, count, rate * c.weight_decay, static_cast<const Scalar*>(weight), 1.0, velocity);
  detail::scale_and_add(backend, count, -c.learning_rate, static_cast<const Scalar*>(velocity), 1.0, weight);
}

// squares[i] = the sum of squares of entry i, 0 for statistics; in double, in a fixed order. squares is in memory of
// the backend.
template <class Scalar, class Matmul>
void squared_norms(Backend<Scalar, Matmul>& backend, std::span<const Entry> entries, const Scalar* values,
                   double* squares) {
  if (backend.planning()) return;
  for (const Entry& entry : entries)
    *squares++ = entry.role == Role::statistic ? 0.0 : detail::squares<Scalar>(entry.size(), values + entry.offset);
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
