// Batch normalization over the rows of each column; every view is a batch of its own.
#pragma once

#include <cmath>

#include "tessera/core/context.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// A strip of columns that one thread sums over all rows: two packs wide.
template <class Scalar>
inline constexpr index strip = 2 * simd::lanes<Scalar>;

// to[k][c] = sum over rows of term_k(row, column pack) for `terms` terms at once, c in [0, count), count <= strip.
// Accumulates 64 rows in Accumulator<Scalar> and the rest in double.
template <int terms, class Scalar, class Term>
void strip_sums(index rows, index count, double (&to)[terms][strip<Scalar>], Term&& term) {
  constexpr index width = simd::lanes<Scalar>;
  for (auto& sums : to)
    for (double& value : sums) value = 0;
  for (index first = 0; first < rows; first += 64) {
    const index last = first + 64 < rows ? first + 64 : rows;
    for (index half = 0; half * width < count; ++half) {
      const index lanes = count - half * width < width ? count - half * width : width;
      simd::Pack<Scalar> sums[terms]{};
      for (index row = first; row < last; ++row) term(row, half * width, lanes, sums);
      for (int k = 0; k < terms; ++k)
        for (index lane = 0; lane < lanes; ++lane) to[k][half * width + lane] += static_cast<double>(sums[k][lane]);
    }
  }
}

template <class Scalar>
[[gnu::always_inline]] inline simd::Pack<Scalar> load_lanes(const Scalar* from, index lanes) {
  return lanes == simd::lanes<Scalar> ? simd::load(from) : simd::load_part(from, lanes);
}

// Calls body(first, count) for strips of the columns, in parallel.
template <class Scalar, class Matmul, class Body>
void for_strips(Backend<Scalar, Matmul>& backend, index columns, Body&& body) {
  backend.for_pieces(columns, strip<Scalar>, [&](index first, index last, int) { body(first, last - first); });
}

// sums (2 columns + 1) receives the sums of x - center and of (x - center)^2 over the rows, and the number of rows.
template <class Scalar, class Matmul, int columns>
void shifted_sums(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x, const Accumulator<Scalar>* center,
                  double* sums) {
  using Sum = Accumulator<Scalar>;
  const double rows = static_cast<double>(x.rows);
  sums[2 * columns] = rows;
  for_strips(backend, columns, [&](index first, index count) {
    double sum[1][strip<Scalar>], about[2][strip<Scalar>];
    strip_sums<1, Scalar>(x.rows, count, sum, [&](index row, index column, index lanes, auto& parts) {
      parts[0] += load_lanes(x.row(row) + first + column, lanes);
    });
    Sum mean[strip<Scalar>] = {};  // as far as sums of this type tell
    for (index i = 0; i < count && x.rows > 0; ++i) mean[i] = static_cast<Sum>(sum[0][i] / rows);
    strip_sums<2, Scalar>(x.rows, count, about, [&](index row, index column, index lanes, auto& parts) {
      const auto off = load_lanes(x.row(row) + first + column, lanes) - load_lanes(mean + column, lanes);
      parts[0] += off;
      parts[1] += off * off;
    });
    for (index i = 0; i < count; ++i) {
      const double shift = static_cast<double>(mean[i]) - static_cast<double>(center[first + i]);
      sums[first + i] = about[0][i] + rows * shift;
      sums[columns + first + i] = about[1][i] + shift * (2 * about[0][i] + rows * shift);
    }
  });
}

}  // namespace detail

// A rank takes the squares about its own mean and then moves them, in double, to about the running mean, which all
// ranks share: so one sum over the ranks is enough, and a mean far from zero takes no digits from the variance.
template <class Context, class Scalar, int columns>
void batch_norm_forward(Context& context, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                        const Accumulator<Scalar>* bias, double epsilon, double momentum,
                        Accumulator<Scalar>* running_mean, Accumulator<Scalar>* running_variance,
                        Accumulator<Scalar>* batches, Rows<Accumulator<Scalar>, 2 * columns> statistics,
                        Rows<Scalar, columns> y) {
  using Sum = Accumulator<Scalar>;
  auto& backend = context.backend;
  const auto frame = context.frame();
  const index rows = x.rows / context.views, stride = 2 * columns + 1;
  double* const sums = backend.arena().template take<double>(context.views * stride);
  backend.compute([&] {
    for (index view = 0; view < context.views; ++view)
      detail::shifted_sums(backend, x.part(view * rows, rows), running_mean, sums + view * stride);
    context.communicator.all_reduce(backend, sums, context.views * stride);
    for (index view = 0; view < context.views; ++view)
      if (const double all_rows = sums[view * stride + 2 * columns]; all_rows < 2)
        fail(
            "BatchNorm needs at least 2 rows per view to take statistics, but the batch has {:.0f}; use a larger batch",
            all_rows);
    for (index c = 0; c < columns; ++c) {
      const double center = static_cast<double>(running_mean[c]);  // before it follows the first view
      for (index view = 0; view < context.views; ++view) {
        const double* const total = sums + view * stride;
        const double all_rows = total[2 * columns], off = total[c] / all_rows, mean = center + off;
        const double squares = total[columns + c] / all_rows - off * off;
        const double variance = squares < 0 ? 0 : squares;  // what is not a number stays so
        statistics.row(view)[c] = static_cast<Sum>(mean);
        statistics.row(view)[columns + c] = static_cast<Sum>(1.0 / std::sqrt(variance + epsilon));
        const auto follow = [&](Sum& running, double value) {
          if (!std::isfinite(value)) return;  // training can go on behind a step that is refused
          running = static_cast<Sum>((1.0 - momentum) * static_cast<double>(running) + momentum * value);
        };
        follow(running_mean[c], mean);
        follow(running_variance[c], variance * all_rows / (all_rows - 1));
      }
    }
    *batches += static_cast<Sum>(context.views);
    for_rows(backend, x.rows, columns, [&](index row) {
      const Sum* const mean = statistics.row(row / rows);
      const Sum* const scale = mean + columns;
      if (weight == nullptr)
        simd::transform(
            index{columns}, y.row(row), [](auto a, auto m, auto s) { return (a - m) * s; }, x.row(row), mean, scale);
      else
        simd::transform(
            index{columns}, y.row(row), [](auto a, auto m, auto s, auto g, auto b) { return (a - m) * s * g + b; },
            x.row(row), mean, scale, weight, bias);
    });
  });
}

template <class Scalar, class Matmul, int columns>
void batch_norm_evaluate(Backend<Scalar, Matmul>& backend, Rows<const Scalar, columns> x,
                         const Accumulator<Scalar>* weight, const Accumulator<Scalar>* bias, double epsilon,
                         const Accumulator<Scalar>* running_mean, const Accumulator<Scalar>* running_variance,
                         Rows<Scalar, columns> y) {
  using Sum = Accumulator<Scalar>;
  for_rows(backend, x.rows, columns, [&](index row) {
    for (index c = 0; c < columns; ++c) {
      const Sum scale = (weight == nullptr ? Sum(1) : weight[c]) / std::sqrt(running_variance[c] + Sum(epsilon));
      const Sum off = static_cast<Sum>(x.row(row)[c]) - running_mean[c];
      y.row(row)[c] = static_cast<Scalar>(off * scale + (bias == nullptr ? Sum(0) : bias[c]));
    }
  });
}

template <class Context, class Scalar, int columns>
void batch_norm_backward(Context& context, Rows<const Scalar, columns> x, const Accumulator<Scalar>* weight,
                         Rows<const Accumulator<Scalar>, 2 * columns> statistics, Rows<const Scalar, columns> dy,
                         Rows<const Scalar, columns> residual, Rows<Scalar, columns> dx, Accumulator<Scalar>* d_weight,
                         Accumulator<Scalar>* d_bias) {
  using Sum = Accumulator<Scalar>;
  auto& backend = context.backend;
  const auto frame = context.frame();
  const index rows = x.rows / context.views, stride = 2 * columns + 1;
  double* const sums = backend.arena().template take<double>(context.views * stride);
  Sum* const means = backend.arena().template take<Sum>(context.views * 2 * columns);
  backend.compute([&] {
    for (index view = 0; view < context.views; ++view) {
      double* const total = sums + view * stride;
      detail::for_strips(backend, columns, [&](index first, index count) {
        double sum[2][detail::strip<Scalar>];
        detail::strip_sums<2, Scalar>(rows, count, sum, [&](index row, index column, index lanes, auto& parts) {
          const index c = first + column;
          const auto gradient = detail::load_lanes(dy.row(view * rows + row) + c, lanes);
          const auto off = detail::load_lanes(x.row(view * rows + row) + c, lanes) -
                           detail::load_lanes(statistics.row(view) + c, lanes);
          parts[0] += gradient;
          parts[1] += gradient * off * detail::load_lanes(statistics.row(view) + columns + c, lanes);
        });
        std::memcpy(total + first, sum[0], static_cast<std::size_t>(count) * sizeof(double));
        std::memcpy(total + columns + first, sum[1], static_cast<std::size_t>(count) * sizeof(double));
      });
      total[2 * columns] = static_cast<double>(rows);
    }
    if (d_weight != nullptr)
      for (index c = 0; c < columns; ++c) {
        double along_one = 0, along_x = 0;
        for (index view = 0; view < context.views; ++view) {
          along_one += sums[view * stride + c];
          along_x += sums[view * stride + columns + c];
        }
        d_bias[c] = static_cast<Sum>(along_one);
        d_weight[c] = static_cast<Sum>(along_x);
      }
    context.communicator.all_reduce(backend, sums, context.views * stride);
    for (index view = 0; view < context.views; ++view)
      for (index c = 0; c < 2 * columns; ++c)
        means[view * 2 * columns + c] = static_cast<Sum>(sums[view * stride + c] / sums[view * stride + 2 * columns]);
    for_rows(backend, x.rows, columns, [&](index row) {
      const index view = row / rows;
      const Sum* const mean = statistics.row(view);
      const Sum* const along_one = means + view * 2 * columns;
      const auto through = [](auto d, auto a, auto m, auto s, auto one, auto along) {
        return s * (d - one - (a - m) * s * along);
      };
      Scalar* const to = dx.row(row);
      if (!residual.wanted() && weight == nullptr)
        simd::transform(index{columns}, to, through, dy.row(row), x.row(row), mean, mean + columns, along_one,
                        along_one + columns);
      else if (!residual.wanted())
        simd::transform(
            index{columns}, to, [=](auto g, auto... rest) { return g * through(rest...); }, weight, dy.row(row),
            x.row(row), mean, mean + columns, along_one, along_one + columns);
      else if (weight == nullptr)
        simd::transform(
            index{columns}, to, [=](auto r, auto... rest) { return r + through(rest...); }, residual.row(row),
            dy.row(row), x.row(row), mean, mean + columns, along_one, along_one + columns);
      else
        simd::transform(
            index{columns}, to, [=](auto r, auto g, auto... rest) { return r + g * through(rest...); },
            residual.row(row), weight, dy.row(row), x.row(row), mean, mean + columns, along_one, along_one + columns);
    });
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
