// Passes over flat buffers: moving averages, optimizer updates, norms.
#pragma once

#include <cmath>

#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/core/update.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera::inline TESSERA_ABI::cpu {

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
void moving_average(Backend<Scalar, Matmul>& backend, index count, double m, const Scalar* x, Scalar* average) {
  if (backend.planning()) return;
  const Scalar keep = static_cast<Scalar>(m), take = static_cast<Scalar>(1.0 - m);
  backend.pool().for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    simd::transform(
        last - first, average + first, [=](auto a, auto b) { return keep * a + take * b; }, average + first, x + first);
  });
}

// AdamW, spec 4.2: weights first decay by learning_rate * weight_decay.
template <class Scalar, class Matmul>
void adamw_update(Backend<Scalar, Matmul>& backend, index count, const AdamCoefficients& c, const Scalar* gradient,
                  Scalar* weight, Scalar* moment1, Scalar* moment2) {
  if (backend.planning()) return;
  const auto scalar = [](double value) { return static_cast<Scalar>(value); };
  const Scalar decay = scalar(1.0 - c.learning_rate * c.weight_decay), beta1 = scalar(c.beta1), beta2 = scalar(c.beta2);
  const Scalar other1 = scalar(1.0 - c.beta1), other2 = scalar(1.0 - c.beta2), epsilon = scalar(c.epsilon);
  const Scalar rate = scalar(c.learning_rate / (1.0 - std::pow(c.beta1, c.step)));
  const Scalar inverse_bias = scalar(1.0 / std::sqrt(1.0 - std::pow(c.beta2, c.step)));
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

// LAMB's direction before scaling: update = bias-corrected Adam direction + weight_decay * weight; spec 4.4.
template <class Scalar, class Matmul>
void lamb_direction(Backend<Scalar, Matmul>& backend, index count, const AdamCoefficients& c, const Scalar* gradient,
                    const Scalar* weight, Scalar* moment1, Scalar* moment2, Scalar* update) {
  if (backend.planning()) return;
  const auto scalar = [](double value) { return static_cast<Scalar>(value); };
  const Scalar beta1 = scalar(c.beta1), beta2 = scalar(c.beta2), decay = scalar(c.weight_decay);
  const Scalar other1 = scalar(1.0 - c.beta1), other2 = scalar(1.0 - c.beta2), epsilon = scalar(c.epsilon);
  const Scalar inverse_bias1 = scalar(1.0 / (1.0 - std::pow(c.beta1, c.step)));
  const Scalar inverse_bias2 = scalar(1.0 / (1.0 - std::pow(c.beta2, c.step)));
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
        size, update + first,
        [=](auto p, auto a, auto b) {
          return a * inverse_bias1 / (detail::square_root<Scalar>(b * inverse_bias2) + epsilon) + decay * p;
        },
        weight + first, m, v);
  });
}

// y = a x + b y.
template <class Scalar, class Matmul>
void scale_and_add(Backend<Scalar, Matmul>& backend, index count, double a, const Scalar* x, double b, Scalar* y) {
  if (backend.planning()) return;
  const Scalar by = static_cast<Scalar>(a), keep = static_cast<Scalar>(b);
  backend.pool().for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    simd::transform(
        last - first, y + first, [=](auto p, auto q) { return by * p + keep * q; }, x + first, y + first);
  });
}

// The Euclidean norm of a + b_scale b; b may be null. In double, in a fixed order.
template <class Scalar, class Matmul>
[[nodiscard]] double norm(Backend<Scalar, Matmul>&, index count, const Scalar* a, double b_scale = 0,
                          const Scalar* b = nullptr) {
  const Scalar scale = static_cast<Scalar>(b_scale);
  double squares = 0;
  for (index first = 0; first < count; first += 4096) {
    const index size = count - first < 4096 ? count - first : 4096;
    squares +=
        static_cast<double>(b == nullptr ? simd::reduce(
                                               size, [](auto x) { return x * x; }, a + first)
                                         : simd::reduce(
                                               size, [=](auto x, auto y) { return (x + scale * y) * (x + scale * y); },
                                               a + first, b + first));
  }
  return std::sqrt(squares);
}

// Whether every value is finite.
template <class Scalar, class Matmul>
[[nodiscard]] bool all_finite(Backend<Scalar, Matmul>&, index count, const Scalar* values) {
  return math::all_finite(values, count);
}

}  // namespace tessera::inline TESSERA_ABI::cpu
