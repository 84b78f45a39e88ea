#include "tessera/cpu/batch_norm.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "support/operation.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"

namespace tessera::test {
namespace {

constexpr double epsilon = 1e-5, momentum = 0.1;

// Two ranks that hold the same rows.
struct Twins {
  static constexpr int size() { return 2; }
  template <class Scalar>
  static void all_reduce(auto&, Scalar* values, index count) {
    for (index i = 0; i < count; ++i) values[i] *= 2;
  }
};

template <class Communicator, class Scalar>
Context<cpu::Backend<Scalar>, Communicator> context_of(cpu::Backend<Scalar>& backend, int views) {
  static Communicator communicator;
  return {backend, communicator, Mode::train, views};
}

// The operands of a layer, and its results by the definition.
template <class Scalar>
struct NaiveBatchNorm {
  int views, ranks;
  Matrix x, gain, bias, dy;
  Matrix running_mean, running_variance, batches;              // before
  Matrix statistics, normalized, y, next_mean, next_variance;  // forward
  Matrix dx, d_gain, d_bias;                                   // backward

  NaiveBatchNorm(index rows, index columns, int number_of_views, bool affine, int number_of_ranks = 1)
      : views(number_of_views), ranks(number_of_ranks) {
    Random random(1, Purpose::test, 0, 0);
    x = normal<Scalar>(random, rows * views, columns, 0.5, 2);
    dy = normal<Scalar>(random, rows * views, columns, 0.2);
    for (index r = 0; r < x.rows; ++r) {  // a column of no variance, whose gradient is divided by sqrt(epsilon)
      x(r, columns - 1) = 0.75;
      dy(r, columns - 1) /= 256;
    }
    running_mean = normal(random, 1, columns);
    running_variance = normal(random, 1, columns, 2, 0.3);
    batches = Matrix(1, 1, 5);
    if (affine) gain = normal(random, 1, columns, 1, 0.3);
    if (affine) bias = normal(random, 1, columns);
    forward();
    backward();
  }

 private:
  [[nodiscard]] index rows() const { return x.rows / views; }

  void forward() {
    statistics = Matrix(views, 2 * x.columns);
    normalized = y = x;
    next_mean = running_mean;
    next_variance = running_variance;
    const double n = static_cast<double>(rows()), all = n * ranks;
    for (index view = 0; view < views; ++view)
      for (index c = 0; c < x.columns; ++c) {
        double mean = 0, variance = 0;
        for (index r = view * rows(); r < (view + 1) * rows(); ++r) mean += x(r, c) / n;
        for (index r = view * rows(); r < (view + 1) * rows(); ++r) variance += (x(r, c) - mean) * (x(r, c) - mean) / n;
        statistics(view, c) = mean;
        statistics(view, x.columns + c) = 1 / std::sqrt(variance + epsilon);
        next_mean(0, c) += momentum * (mean - next_mean(0, c));
        next_variance(0, c) += momentum * (variance * all / (all - 1) - next_variance(0, c));
        for (index r = view * rows(); r < (view + 1) * rows(); ++r) {
          normalized(r, c) = (x(r, c) - mean) / std::sqrt(variance + epsilon);
          y(r, c) = gain.absent() ? normalized(r, c) : normalized(r, c) * gain(0, c) + bias(0, c);
        }
      }
  }

  // By the Jacobian: d normalized_i / d x_j = scale (delta_ij - 1/n - normalized_i normalized_j / n).
  void backward() {
    dx = Matrix(x.rows, x.columns);
    d_gain = d_bias = Matrix(1, x.columns);
    const double n = static_cast<double>(rows());
    for (index j = 0; j < x.rows; ++j)
      for (index c = 0; c < x.columns; ++c) {
        const index view = j / rows();
        d_gain(0, c) += dy(j, c) * normalized(j, c);
        d_bias(0, c) += dy(j, c);
        for (index i = view * rows(); i < (view + 1) * rows(); ++i)
          dx(j, c) += dy(i, c) * (gain.absent() ? 1 : gain(0, c)) * statistics(view, x.columns + c) *
                      ((i == j ? 1 : 0) - 1 / n - normalized(i, c) * normalized(j, c) / n);
      }
  }
};

// What forward reads and writes.
template <class Scalar, int columns>
struct Forward {
  Values<Scalar> x, y;
  Sums<Scalar> gain, bias, mean, variance, batches, statistics;

  explicit Forward(const NaiveBatchNorm<Scalar>& naive)
      : x(naive.x),
        y(naive.x.rows, columns),
        gain(naive.gain),
        bias(naive.bias),
        mean(naive.running_mean),
        variance(naive.running_variance),
        batches(naive.batches),
        statistics(naive.views, 2 * columns) {}

  template <class Communicator = comm::Serial>
  void operator()(cpu::Backend<Scalar>& backend, int views) {
    auto context = context_of<Communicator>(backend, views);
    batch_norm_forward(context, input<columns>(x), std::as_const(gain).data(), std::as_const(bias).data(), epsilon,
                       momentum, mean.data(), variance.data(), batches.data(), output<2 * columns>(statistics),
                       output<columns>(y));
  }
};

template <class Scalar, int columns, class Communicator = comm::Serial>
void check_forward(index rows, int views, bool affine) {
  SCOPED_TRACE(fmt::format("{} views of {} x {}, {}", views, rows, columns, affine ? "affine" : "not affine"));
  const NaiveBatchNorm<Scalar> naive(rows, columns, views, affine, Communicator::size());
  Forward<Scalar, columns> forward(naive);
  run_operation<Scalar>([&](auto& backend) { forward.template operator()<Communicator>(backend, views); }, forward.mean,
                        forward.variance, forward.batches, forward.statistics, forward.y);
  expect_close("y", forward.y, naive.y);
  // Of the column without variance, moving squares to the running mean leaves 1e-16 beside epsilon.
  expect_close("statistics", forward.statistics, naive.statistics, 100 * rounding<Accumulator<Scalar>>);
  expect_close("running mean", forward.mean, naive.next_mean);
  expect_close("running variance", forward.variance, naive.next_variance);
  EXPECT_EQ(forward.batches(0, 0), 5 + views);
}

enum class Aliasing { none, dx_is_dy, dx_is_residual };

template <class Scalar, int columns, class Communicator = comm::Serial>
void check_backward(index rows, int views, bool affine, bool with_residual, Aliasing aliasing = Aliasing::none) {
  SCOPED_TRACE(fmt::format("{} views of {} x {}, {}, {} residual", views, rows, columns,
                           affine ? "affine" : "not affine", with_residual ? "with" : "without"));
  NaiveBatchNorm<Scalar> naive(rows, columns, views, affine, Communicator::size());
  Random random(2, Purpose::test, 0, 0);
  const Matrix residual = with_residual ? normal<Scalar>(random, rows * views, columns) : Matrix();
  for (std::size_t i = 0; i < residual.values.size(); ++i) naive.dx.values[i] += residual.values[i];

  const Values<Scalar> x(naive.x), dy(naive.dy), added(residual);
  const Sums<Scalar> gain(naive.gain), statistics(naive.statistics);
  Values<Scalar> dx(naive.x.rows, columns);
  Sums<Scalar> d_gain(affine ? 1 : 0, columns), d_bias(affine ? 1 : 0, columns);
  if (aliasing == Aliasing::dx_is_dy) dx = dy;
  if (aliasing == Aliasing::dx_is_residual) dx = added;
  run_operation<Scalar>(
      [&](auto& backend) {
        auto context = context_of<Communicator>(backend, views);
        batch_norm_backward(context, input<columns>(x), gain.data(), input<2 * columns>(statistics),
                            input<columns>(aliasing == Aliasing::dx_is_dy ? dx : dy),
                            input<columns>(aliasing == Aliasing::dx_is_residual ? dx : added), output<columns>(dx),
                            d_gain.data(), d_bias.data());
      },
      dx, d_gain, d_bias);
  expect_close("dx", dx, naive.dx);
  if (!affine) return;
  expect_close("d_gain", d_gain, naive.d_gain);
  expect_close("d_bias", d_bias, naive.d_bias);
}

template <class Scalar>
class BatchNorm : public testing::Test {};
TYPED_TEST_SUITE(BatchNorm, Scalars);

TYPED_TEST(BatchNorm, ForwardEqualsTheDefinition) {
  check_forward<TypeParam, 1>(2, 1, true);
  check_forward<TypeParam, 37>(65, 3, false);
  check_forward<TypeParam, 37>(300, 2, true);
}

TYPED_TEST(BatchNorm, BackwardEqualsTheDefinition) {
  check_backward<TypeParam, 1>(2, 1, true, false);
  check_backward<TypeParam, 37>(65, 3, false, false);
  check_backward<TypeParam, 37>(300, 2, true, true);
  check_backward<TypeParam, 37>(65, 3, false, true);
  check_backward<TypeParam, 37>(7, 1, true, false);
}

TYPED_TEST(BatchNorm, OverwritesWhatItMay) {
  check_backward<TypeParam, 37>(130, 2, true, false, Aliasing::dx_is_dy);
  check_backward<TypeParam, 37>(130, 2, true, true, Aliasing::dx_is_dy);
  check_backward<TypeParam, 37>(130, 2, true, true, Aliasing::dx_is_residual);
  check_backward<TypeParam, 37>(65, 3, false, false, Aliasing::dx_is_dy);
}

TYPED_TEST(BatchNorm, CountsTheRowsOfAllRanks) {
  check_forward<TypeParam, 37, Twins>(4, 2, true);
  check_forward<TypeParam, 37, Twins>(1, 2, true);
  check_backward<TypeParam, 37, Twins>(4, 2, true, true);
}

// Ranks with these numbers of rows, of each of two views, against the definition on all rows.
template <class Scalar>
void check_ranks(const std::vector<index>& shares) {
  constexpr double bound = sizeof(Accumulator<Scalar>) == 8 ? 1e-11 : 2e-5;  // of sums
  constexpr int columns = 37, views = 2;
  const index all = std::accumulate(shares.begin(), shares.end(), index{0});
  const NaiveBatchNorm<Scalar> naive(all, columns, views, true);
  Matrix y(views * all, columns), dx = y, d_gain(1, columns), d_bias(1, columns);
  std::vector<Sums<Scalar>> statistics(shares.size(), Sums<Scalar>(views, 2 * columns));
  std::mutex mutex;
  comm::run_threads(static_cast<int>(shares.size()), [&](comm::Threads& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    const index rows = shares[rank],
                before = std::accumulate(shares.begin(), shares.begin() + communicator.rank(), index{0});
    // Calls use(row of this rank, row of all) for both views.
    const auto for_rows = [&](auto&& use) {
      for (index view = 0; view < views; ++view)
        for (index i = 0; i < rows; ++i) use(view * rows + i, view * all + before + i);
    };
    Matrix my_x(views * rows, columns), my_dy = my_x;
    for_rows([&](index mine, index of_all) {
      for (index c = 0; c < columns; ++c) {
        my_x(mine, c) = naive.x(of_all, c);
        my_dy(mine, c) = naive.dy(of_all, c);
      }
    });
    const Values<Scalar> x(my_x), dy(my_dy);
    const Sums<Scalar> gain(naive.gain), bias(naive.bias);
    Values<Scalar> my_y(views * rows, columns), my_dx(views * rows, columns);
    Sums<Scalar> running_mean(naive.running_mean), running_variance(naive.running_variance), batches(naive.batches),
        my_d_gain(1, columns), my_d_bias(1, columns);
    cpu::Backend<Scalar> backend(1);
    Context<cpu::Backend<Scalar>, comm::Threads> context{backend, communicator, Mode::train, views};
    const auto run = [&] {
      batch_norm_forward(context, input<columns>(x), gain.data(), bias.data(), epsilon, momentum, running_mean.data(),
                         running_variance.data(), batches.data(), output<2 * columns>(statistics[rank]),
                         output<columns>(my_y));
      batch_norm_backward(context, input<columns>(x), gain.data(), input<2 * columns>(statistics[rank]),
                          input<columns>(dy), Rows<const Scalar, columns>{}, output<columns>(my_dx), my_d_gain.data(),
                          my_d_bias.data());
    };
    run();
    backend.arena().commit();
    run();
    expect_close("running mean", running_mean, naive.next_mean, bound);
    expect_close("running variance", running_variance, naive.next_variance, bound);
    const std::lock_guard lock(mutex);
    for (index c = 0; c < columns; ++c) {
      d_gain(0, c) += my_d_gain(0, c);
      d_bias(0, c) += my_d_bias(0, c);
      for_rows([&](index mine, index of_all) {
        y(of_all, c) = my_y(mine, c);
        dx(of_all, c) = my_dx(mine, c);
      });
    }
  });
  for (const auto& of_rank : statistics) EXPECT_TRUE(std::ranges::equal(of_rank.span(), statistics[0].span()));
  expect_close("statistics", statistics[0], naive.statistics, bound);
  expect_close("y", Values<Scalar>(y), naive.y, std::max(bound, rounding<Scalar>));
  expect_close("dx", Values<Scalar>(dx), naive.dx, std::max(bound, rounding<Scalar>));
  expect_close("d_gain", Sums<Scalar>(d_gain), naive.d_gain, bound);
  expect_close("d_bias", Sums<Scalar>(d_bias), naive.d_bias, bound);
}

TYPED_TEST(BatchNorm, OfUnequalRanksIsThatOfOne) {
  for (const std::vector<index>& shares :
       {std::vector<index>{5, 5}, {7, 3}, {1, 9}, {1, 1, 1}, {0, 10}, {10, 0, 0, 3}, {70, 1, 0, 129}})
    check_ranks<TypeParam>(shares);
}

// A variance that is a 10^-12th of the mean's square keeps its digits.
TEST(BatchNormRanks, KeepTheDigitsOfASmallVariance) {
  constexpr int columns = 5, each = 43, ranks = 3;
  constexpr const float* gain = nullptr;  // nor bias
  Random random(1, Purpose::test, 0, 0);
  const Values<float> all(normal(random, ranks * each, columns, 1e4, 1e-2));
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    cpu::Backend<float> backend(1);
    Context<cpu::Backend<float>, comm::Threads> context{backend, communicator};
    Values<float> statistics(1, 2 * columns), y(each, columns), running(Matrix(2, columns, 0)),
        batches(Matrix(1, 1, 0));
    const auto run = [&] {
      batch_norm_forward(context, input<columns>(all).part(communicator.rank() * each, each), gain, gain, 0.0, momentum,
                         running.data(), running.data() + columns, batches.data(), output<2 * columns>(statistics),
                         output<columns>(y));
    };
    run();
    backend.arena().commit();
    run();
    for (index c = 0; c < columns; ++c) {
      double mean = 0, variance = 0;
      for (index r = 0; r < all.rows(); ++r) mean += all(r, c) / static_cast<double>(all.rows());
      for (index r = 0; r < all.rows(); ++r)
        variance += std::pow(all(r, c) - mean, 2) / static_cast<double>(all.rows());
      EXPECT_NEAR(std::pow(statistics(0, columns + c), -2) / variance, 1, 1e-3) << "column " << c;
    }
  });
}

TYPED_TEST(BatchNorm, OfTwoViewsIsTwoBatchNorms) {
  constexpr int columns = 37, rows = 70;
  const NaiveBatchNorm<TypeParam> naive(rows, columns, 2, true);
  Forward<TypeParam, columns> together(naive), apart(naive);
  cpu::Backend<TypeParam> backend(2);
  together(backend, 2);
  backend.arena().commit();
  together(backend, 2);
  auto context = context_of<comm::Serial>(backend, 1);
  for (index view = 0; view < 2; ++view)
    batch_norm_forward(context, input<columns>(apart.x).part(view * rows, rows), std::as_const(apart.gain).data(),
                       std::as_const(apart.bias).data(), epsilon, momentum, apart.mean.data(), apart.variance.data(),
                       apart.batches.data(), output<2 * columns>(apart.statistics).part(view, 1),
                       output<columns>(apart.y).part(view * rows, rows));
  // Not to the bit: squares are taken about the running mean. A bf16 may then be rounded to its neighbour.
  constexpr double last_digits = 4 * static_cast<double>(std::numeric_limits<Accumulator<TypeParam>>::epsilon());
  const auto expect_near = [](const auto& values, const auto& expected, double bound) {
    for (index row = 0; row < expected.rows(); ++row)
      for (index c = 0; c < expected.columns(); ++c)
        EXPECT_NEAR(values(row, c), expected(row, c), bound * (1 + std::abs(expected(row, c))));
  };
  expect_near(together.y, apart.y, std::is_same_v<TypeParam, bf16> ? rounding<bf16> : last_digits);
  expect_near(together.statistics, apart.statistics, last_digits);
  expect_near(together.mean, apart.mean, last_digits);
  expect_near(together.variance, apart.variance, last_digits);
  expect_near(together.batches, apart.batches, last_digits);
}

TYPED_TEST(BatchNorm, ShowsWhatIsNotANumberButDoesNotKeepIt) {
  constexpr int columns = 37, bad = 3;
  const NaiveBatchNorm<TypeParam> naive(20, columns, 1, true);
  Forward<TypeParam, columns> forward(naive);
  forward.x.data()[7 * columns + bad] = TypeParam(std::numeric_limits<Accumulator<TypeParam>>::quiet_NaN());
  const Forward<TypeParam, columns> before = forward;
  cpu::Backend<TypeParam> backend(2);
  forward(backend, 1);
  backend.arena().commit();
  forward(backend, 1);
  for (index c = 0; c < columns; ++c) {
    EXPECT_EQ(std::isnan(forward.y(0, c)), c == bad) << c;
    EXPECT_EQ(std::isnan(forward.statistics(0, columns + c)), c == bad) << c;
    EXPECT_EQ(forward.mean(0, c) == before.mean(0, c), c == bad) << c;
    EXPECT_EQ(forward.variance(0, c) == before.variance(0, c), c == bad) << c;
  }
}

TYPED_TEST(BatchNorm, RefusesASingleRowAndChangesNothing) {
  constexpr int columns = 37;
  const NaiveBatchNorm<TypeParam> naive(2, columns, 1, true);
  Forward<TypeParam, columns> forward(naive);
  const Forward<TypeParam, columns> before = forward;
  cpu::Backend<TypeParam> backend(2);
  forward(backend, 2);  // two views of one row each
  backend.arena().commit();
  EXPECT_THAT(
      [&] { forward(backend, 2); },
      testing::ThrowsMessage<Error>("BatchNorm needs at least 2 rows per view to take statistics, but the batch "
                                    "has 1; use a larger batch"));
  EXPECT_TRUE(forward.mean.same_bits(before.mean));
  EXPECT_TRUE(forward.variance.same_bits(before.variance));
  EXPECT_TRUE(forward.batches.same_bits(before.batches));
}

template <class Scalar, int columns>
void check_evaluation(index rows, bool affine) {
  SCOPED_TRACE(fmt::format("{} x {}, {}", rows, columns, affine ? "affine" : "not affine"));
  const NaiveBatchNorm<Scalar> naive(rows, columns, 1, affine);
  Matrix y = naive.x;
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) {
      y(r, c) = (y(r, c) - naive.running_mean(0, c)) / std::sqrt(naive.running_variance(0, c) + epsilon);
      if (affine) y(r, c) = y(r, c) * naive.gain(0, c) + naive.bias(0, c);
    }
  const Values<Scalar> x(naive.x);
  const Sums<Scalar> gain(naive.gain), bias(naive.bias), mean(naive.running_mean), variance(naive.running_variance);
  Values<Scalar> y_values(rows, columns);
  run_operation<Scalar>(
      [&](auto& backend) {
        batch_norm_evaluate(backend, input<columns>(x), gain.data(), bias.data(), epsilon, mean.data(), variance.data(),
                            output<columns>(y_values));
      },
      y_values);
  expect_close("y", y_values, y);
}

TYPED_TEST(BatchNorm, EvaluationUsesTheRunningStatistics) {
  check_evaluation<TypeParam, 1>(1, true);
  check_evaluation<TypeParam, 37>(600, true);
  check_evaluation<TypeParam, 37>(3, false);
}

}  // namespace
}  // namespace tessera::test
