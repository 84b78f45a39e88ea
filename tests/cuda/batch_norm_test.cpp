#include "tessera/cuda/batch_norm.hpp"

#include "cuda/operation.hpp"
#include "tessera/comm/serial.hpp"

namespace tessera::test {
namespace {

constexpr double epsilon = 1e-5, momentum = 0.1;

template <class Value>
__global__ void add_kernel(index count, const Value* from, Value* to) {
  const index at = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < count) to[at] += from[at];
}

// Two ranks that hold the same rows.
struct Twins {
  static constexpr int size() { return 2; }
  template <class Scalar, class Value>
  static void all_reduce(cuda::Backend<Scalar>& backend, Value* values, index count) {
    launch(backend, cuda::blocks_for(count, 256), 256, 0, add_kernel<Value>, count, static_cast<const Value*>(values),
           values);
  }
};

// Two ranks one after the other: the first leaves its sums, the second adds them to its own.
struct Pair {
  const cuda::Buffer<double>& sums;
  bool second = false;

  static constexpr int size() { return 2; }
  template <class Scalar>
  void all_reduce(cuda::Backend<Scalar>& backend, double* values, index count) const {
    if (second)
      launch(backend, cuda::blocks_for(count, 256), 256, 0, add_kernel<double>, count,
             static_cast<const double*>(sums.data()), values);
    else
      backend.copy(count, static_cast<const double*>(values), sums.data());
  }
};

// Calls body(context) as one of `ranks` ranks, of which there may be 2.
template <class Scalar, class Body>
void with_context(cuda::Backend<Scalar>& backend, int views, int ranks, Body&& body) {
  comm::Serial serial;
  Twins twins;
  Context<cuda::Backend<Scalar>, comm::Serial> alone{backend, serial, Mode::train, views};
  Context<cuda::Backend<Scalar>, Twins> together{backend, twins, Mode::train, views};
  if (ranks == 1)
    body(alone);
  else
    body(together);
}

struct Case {
  index rows;  // of each view
  int views = 1;
  bool affine = true;
  int ranks = 1;
  double mean = 0.5, deviation = 2;
};

// The operands of a layer, as Scalar stores them, and its results by the definition.
template <class Scalar>
struct NaiveBatchNorm {
  index rows;
  int views, ranks;
  Matrix x, gain, bias, dy;
  Matrix running_mean, running_variance, batches;              // before
  Matrix statistics, normalized, y, next_mean, next_variance;  // forward
  Matrix dx, d_gain, d_bias;                                   // backward

  NaiveBatchNorm(const Case& c, index columns) : rows(c.rows), views(c.views), ranks(c.ranks) {
    Random random(1, Purpose::test, 0, 0);
    x = normal(random, rows * views, columns, c.mean, c.deviation);
    dy = normal(random, rows * views, columns, 0.2);
    for (index r = 0; r < x.rows; ++r) {  // a column of no variance, whose gradient is divided by sqrt(epsilon)
      x(r, columns - 1) = 0.75;
      dy(r, columns - 1) /= 256;
    }
    x = stored<Scalar>(x);
    dy = stored<Scalar>(dy);
    running_mean = normal(random, 1, columns);
    running_variance = normal(random, 1, columns, 2, 0.3);
    batches = Matrix(1, 1, 5);
    if (c.affine) gain = normal(random, 1, columns, 1, 0.3);
    if (c.affine) bias = normal(random, 1, columns);
    forward();
    backward();
  }

 private:
  [[nodiscard]] double factor(index column) const { return gain.absent() ? 1 : gain(0, column); }

  void forward() {
    statistics = Matrix(views, 2 * x.columns);
    normalized = y = x;
    next_mean = running_mean;
    next_variance = running_variance;
    const double n = static_cast<double>(rows), all = n * ranks;
    for (index view = 0; view < views; ++view)
      for (index c = 0; c < x.columns; ++c) {
        double mean = 0, variance = 0;
        for (index r = view * rows; r < (view + 1) * rows; ++r) mean += x(r, c) / n;
        for (index r = view * rows; r < (view + 1) * rows; ++r) variance += (x(r, c) - mean) * (x(r, c) - mean) / n;
        statistics(view, c) = mean;
        statistics(view, x.columns + c) = 1 / std::sqrt(variance + epsilon);
        next_mean(0, c) += momentum * (mean - next_mean(0, c));
        next_variance(0, c) += momentum * (variance * all / (all - 1) - next_variance(0, c));
        for (index r = view * rows; r < (view + 1) * rows; ++r) {
          normalized(r, c) = (x(r, c) - mean) / std::sqrt(variance + epsilon);
          y(r, c) = normalized(r, c) * factor(c) + (bias.absent() ? 0 : bias(0, c));
        }
      }
  }

  void backward() {
    dx = Matrix(x.rows, x.columns);
    d_gain = d_bias = Matrix(1, x.columns);
    const double n = static_cast<double>(rows);
    for (index view = 0; view < views; ++view)
      for (index c = 0; c < x.columns; ++c) {
        double along_one = 0, along_x = 0;
        for (index r = view * rows; r < (view + 1) * rows; ++r) {
          along_one += dy(r, c);
          along_x += dy(r, c) * normalized(r, c);
        }
        d_bias(0, c) += along_one;
        d_gain(0, c) += along_x;
        for (index r = view * rows; r < (view + 1) * rows; ++r)
          dx(r, c) =
              factor(c) * statistics(view, x.columns + c) * (dy(r, c) - along_one / n - normalized(r, c) * along_x / n);
      }
  }
};

// Gain and bias on the device, null if absent.
struct DeviceAffine {
  DeviceValues<float> gain, bias;

  template <class Scalar>
  explicit DeviceAffine(const NaiveBatchNorm<Scalar>& naive) : gain(naive.gain), bias(naive.bias) {}
};

template <class Scalar, int columns>
void check_forward(const Case& c, double bound = device_rounding<Scalar>) {
  SCOPED_TRACE(fmt::format("{} views of {} x {}, {}", c.views, c.rows, columns, c.affine ? "affine" : "not affine"));
  const NaiveBatchNorm<Scalar> naive(c, columns);
  const DeviceAffine affine(naive);
  const DeviceValues<Scalar> x(naive.x), y(naive.x.rows, columns);
  const DeviceValues<float> mean(naive.running_mean), variance(naive.running_variance), batches(naive.batches),
      statistics(c.views, 2 * columns);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        with_context(backend, c.views, c.ranks, [&](auto& context) {
          batch_norm_forward(context, x.template input<columns>(), affine.gain.data(), affine.bias.data(), epsilon,
                             momentum, mean.data(), variance.data(), batches.data(),
                             statistics.template output<2 * columns>(), y.template output<columns>());
        });
      },
      y, statistics, mean, variance, batches);
  expect_close("y", y, naive.y, bound);
  expect_close("statistics", statistics, naive.statistics);
  expect_close("running mean", mean, naive.next_mean);
  expect_close("running variance", variance, naive.next_variance);
  EXPECT_EQ(batches.values()(0, 0), 5 + c.views);
}

enum class Aliasing { none, dx_is_dy, dx_is_residual };

template <class Scalar, int columns>
void check_backward(const Case& c, bool with_residual, Aliasing aliasing = Aliasing::none) {
  SCOPED_TRACE(fmt::format("{} views of {} x {}, {}, {} residual", c.views, c.rows, columns,
                           c.affine ? "affine" : "not affine", with_residual ? "with" : "without"));
  NaiveBatchNorm<Scalar> naive(c, columns);
  Random random(2, Purpose::test, 0, 0);
  const Matrix residual = with_residual ? stored<Scalar>(normal(random, naive.x.rows, columns)) : Matrix();
  for (std::size_t i = 0; i < residual.values.size(); ++i) naive.dx.values[i] += residual.values[i];

  const DeviceAffine affine(naive);
  const DeviceValues<float> statistics(naive.statistics), d_gain(c.affine ? 1 : 0, columns),
      d_bias(c.affine ? 1 : 0, columns);
  const DeviceValues<Scalar> x(naive.x), dy(naive.dy), added(residual), separate(naive.x.rows, columns);
  const DeviceValues<Scalar>& dx = aliasing == Aliasing::dx_is_dy         ? dy
                                   : aliasing == Aliasing::dx_is_residual ? added
                                                                          : separate;
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        with_context(backend, c.views, c.ranks, [&](auto& context) {
          batch_norm_backward(context, x.template input<columns>(), affine.gain.data(),
                              statistics.template input<2 * columns>(), dy.template input<columns>(),
                              added.template input<columns>(), dx.template output<columns>(), d_gain.data(),
                              d_bias.data());
        });
      },
      dx, d_gain, d_bias);
  expect_close("dx", dx, naive.dx);
  if (!c.affine) return;
  expect_close("d_gain", d_gain, naive.d_gain);
  expect_close("d_bias", d_bias, naive.d_bias);
}

template <class Scalar>
class DeviceBatchNorm : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceBatchNorm, DeviceScalars);

TYPED_TEST(DeviceBatchNorm, ForwardEqualsTheDefinition) {
  check_forward<TypeParam, 1>({.rows = 2});
  check_forward<TypeParam, 37>({.rows = 65, .views = 3, .affine = false});
  check_forward<TypeParam, 48>({.rows = 700, .views = 2});
  check_forward<TypeParam, 520>({.rows = 150, .views = 2});  // more than one tile, the last with idle threads
}

TYPED_TEST(DeviceBatchNorm, BackwardEqualsTheDefinition) {
  check_backward<TypeParam, 1>({.rows = 2}, false);
  check_backward<TypeParam, 37>({.rows = 65, .views = 3, .affine = false}, false);
  check_backward<TypeParam, 37>({.rows = 65, .views = 3, .affine = false}, true);
  check_backward<TypeParam, 48>({.rows = 700, .views = 2}, true);
  check_backward<TypeParam, 520>({.rows = 150, .views = 2}, false);
}

// As many rows as the first layers of a convolutional stem have: chunks grow instead of their number.
TYPED_TEST(DeviceBatchNorm, TakesManyRows) {
  check_forward<TypeParam, 7>({.rows = 75001, .views = 2});
  check_backward<TypeParam, 7>({.rows = 75001, .views = 2}, false);
}

TYPED_TEST(DeviceBatchNorm, OverwritesWhatItMay) {
  check_backward<TypeParam, 40>({.rows = 130, .views = 2}, false, Aliasing::dx_is_dy);
  check_backward<TypeParam, 40>({.rows = 130, .views = 2}, true, Aliasing::dx_is_dy);
  check_backward<TypeParam, 40>({.rows = 130, .views = 2}, true, Aliasing::dx_is_residual);
}

TYPED_TEST(DeviceBatchNorm, CountsTheRowsOfAllRanks) {
  check_forward<TypeParam, 37>({.rows = 4, .views = 2, .ranks = 2});
  check_forward<TypeParam, 37>({.rows = 1, .views = 2, .ranks = 2});
  check_backward<TypeParam, 37>({.rows = 4, .views = 2, .ranks = 2}, true);
}

// Rows [first, first + count) of every view.
Matrix rows_of_views(const Matrix& from, index views, index first, index count) {
  Matrix part(views * count, from.columns);
  for (index view = 0; view < views; ++view)
    for (index r = 0; r < count; ++r)
      for (index c = 0; c < from.columns; ++c)
        part(view * count + r, c) = from(view * (from.rows / views) + first + r, c);
  return part;
}

// The results of a rank that has rows [first, first + count) of every view; another has the rest.
template <class Scalar>
void check_rank(const NaiveBatchNorm<Scalar>& naive, index first, index count) {
  constexpr int columns = 37;
  SCOPED_TRACE(fmt::format("rows {} to {} of {}", first, first + count, naive.rows));
  const index views = naive.views, rest = naive.rows - count;
  const auto part = [&](const Matrix& all, bool of_rest) {
    return of_rest ? rows_of_views(all, views, first == 0 ? count : 0, rest) : rows_of_views(all, views, first, count);
  };
  const cuda::Buffer<double> sums(views * (2 * columns + 1));
  DeviceValues<float> statistics(views, 2 * columns), mean(naive.running_mean), variance(naive.running_variance),
      batches(naive.batches), d_gain(1, columns), d_bias(1, columns);
  const DeviceValues<float> gain(naive.gain), bias(naive.bias);
  DeviceValues<Scalar> y(views * count, columns), dx(views * count, columns);
  cuda::Backend<Scalar> backend;
  const auto step = [&](bool forward, bool second) {
    const DeviceValues<Scalar> x(part(naive.x, !second)), dy(part(naive.dy, !second)), other(views * rest, columns);
    const Rows<Scalar, columns> to =
        second ? (forward ? y : dx).template output<columns>() : other.template output<columns>();
    mean.restore(), variance.restore(), batches.restore();
    Pair pair{sums, second};
    Context<cuda::Backend<Scalar>, Pair> context{backend, pair, Mode::train, static_cast<int>(views)};
    if (forward)
      batch_norm_forward(context, x.template input<columns>(), gain.data(), bias.data(), epsilon, momentum, mean.data(),
                         variance.data(), batches.data(), statistics.template output<2 * columns>(), to);
    else
      batch_norm_backward(context, x.template input<columns>(), gain.data(), statistics.template input<2 * columns>(),
                          dy.template input<columns>(), {}, to, d_gain.data(), d_bias.data());
    backend.wait();
  };
  step(true, false);
  step(true, true);
  backend.arena().commit();
  step(true, false);
  step(true, true);
  expect_close("y", y, part(naive.y, false));
  expect_close("statistics", statistics, naive.statistics);
  expect_close("running mean", mean, naive.next_mean);
  expect_close("running variance", variance, naive.next_variance);
  step(false, false);
  const Matrix gain_of_rest = d_gain.values(), bias_of_rest = d_bias.values();
  step(false, true);
  expect_close("dx", dx, part(naive.dx, false));
  Matrix gain_sum = d_gain.values(), bias_sum = d_bias.values();
  for (index c = 0; c < columns; ++c) {
    gain_sum(0, c) += gain_of_rest(0, c);
    bias_sum(0, c) += bias_of_rest(0, c);
  }
  expect_close("d_gain", Values<double>(gain_sum), naive.d_gain, device_rounding<float>);
  expect_close("d_bias", Values<double>(bias_sum), naive.d_bias, device_rounding<float>);
}

TYPED_TEST(DeviceBatchNorm, RanksMayHaveDifferentNumbersOfRowsOrNone) {
  const NaiveBatchNorm<TypeParam> naive({.rows = 301, .views = 2}, 37);
  check_rank(naive, 0, 300);
  check_rank(naive, 300, 1);
  check_rank(naive, 0, 301);
  check_rank(naive, 0, 0);
}

TYPED_TEST(DeviceBatchNorm, OneRowOnAllRanksGivesNothingThatLooksLikeANumber) {
  constexpr int columns = 8;
  const cuda::Buffer<double> sums(2 * columns + 1);
  const DeviceValues<TypeParam> x(Matrix(1, columns, 0.5)), y(Matrix(1, columns, 0.5));
  const DeviceValues<float> mean(Matrix(1, columns)), variance(Matrix(1, columns, 1)), batches(Matrix(1, 1)),
      statistics(1, 2 * columns);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        Pair pair{sums, true};
        Context<cuda::Backend<TypeParam>, Pair> context{backend, pair};
        batch_norm_forward(context, x.template input<columns>(), nullptr, nullptr, epsilon, momentum, mean.data(),
                           variance.data(), batches.data(), statistics.template output<2 * columns>(),
                           y.template output<columns>());
      },
      y);
  for (index c = 0; c < columns; ++c) EXPECT_TRUE(std::isnan(y.values()(0, c))) << c;
}

// Stored as float, the mean is up to 3e-5 off.
TEST(DeviceBatchNormInFloat, KeepsTheVarianceOfAColumnFarFromZero) {
  if (!missing_device().empty()) GTEST_SKIP() << missing_device();
  check_forward<float, 48>({.rows = 700, .views = 2, .mean = 1e3, .deviation = 1}, 4e-5);
}

// The difference of sums may be less than -epsilon there.
TEST(DeviceBatchNormInFloat, ConstantColumnsFarFromZeroGiveZeros) {
  if (!missing_device().empty()) GTEST_SKIP() << missing_device();
  constexpr int columns = 48;
  Matrix values(97, columns);
  for (index r = 0; r < values.rows; ++r)
    for (index c = 0; c < columns; ++c) values(r, c) = static_cast<double>(1e7f / static_cast<float>(2 * c + 3));
  const DeviceValues<float> x(values), y(values.rows, columns), mean(Matrix(1, columns)),
      variance(Matrix(1, columns, 1)), batches(Matrix(1, 1)), statistics(1, 2 * columns);
  run_on_device<float>(
      [&](cuda::Backend<float>& backend) {
        with_context(backend, 1, 1, [&](auto& context) {
          batch_norm_forward(context, x.input<columns>(), nullptr, nullptr, epsilon, momentum, mean.data(),
                             variance.data(), batches.data(), statistics.output<2 * columns>(), y.output<columns>());
        });
      },
      y);
  expect_close("y", y, Matrix(values.rows, columns), 0);
}

TYPED_TEST(DeviceBatchNorm, ShowsWhatIsNotANumber) {
  constexpr int columns = 8;
  Random random(1, Purpose::test, 0, 0);
  Matrix values = normal(random, 100, columns);
  values(57, 3) = std::numeric_limits<double>::quiet_NaN();
  const DeviceValues<TypeParam> x(values), y(100, columns);
  const DeviceValues<float> mean(Matrix(1, columns)), variance(Matrix(1, columns, 1)), batches(Matrix(1, 1)),
      statistics(1, 2 * columns);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        with_context(backend, 1, 1, [&](auto& context) {
          batch_norm_forward(context, x.template input<columns>(), nullptr, nullptr, epsilon, momentum, mean.data(),
                             variance.data(), batches.data(), statistics.template output<2 * columns>(),
                             y.template output<columns>());
        });
      },
      y, statistics, mean, variance);
  for (index c = 0; c < columns; ++c) {
    EXPECT_EQ(std::isnan(y.values()(0, c)), c == 3) << c;
    EXPECT_EQ(std::isnan(statistics.values()(0, columns + c)), c == 3) << c;
    EXPECT_TRUE(std::isfinite(mean.values()(0, c))) << c;
    EXPECT_EQ(variance.values()(0, c) == 1, c == 3) << c << ": where it is not a number, the running one stays";
  }
}

TYPED_TEST(DeviceBatchNorm, NeedsTwoRows) {
  cuda::Backend<TypeParam> backend;
  with_context(backend, 2, 1, [&](auto& context) {
    EXPECT_THROW(batch_norm_forward(context, Rows<const TypeParam, 3>{nullptr, 2}, nullptr, nullptr, epsilon, momentum,
                                    nullptr, nullptr, nullptr, {}, Rows<TypeParam, 3>{nullptr, 2}),
                 Error);
  });
}

template <class Scalar, int columns>
void check_evaluation(index rows, bool affine) {
  const NaiveBatchNorm<Scalar> naive({.rows = rows, .affine = affine}, columns);
  Matrix expected = naive.x;
  for (index r = 0; r < rows; ++r)
    for (index c = 0; c < columns; ++c) {
      double& value = expected(r, c);
      value = (value - naive.running_mean(0, c)) / std::sqrt(naive.running_variance(0, c) + epsilon);
      if (affine) value = value * naive.gain(0, c) + naive.bias(0, c);
    }
  const DeviceAffine parameters(naive);
  const DeviceValues<Scalar> x(naive.x), y(rows, columns);
  const DeviceValues<float> mean(naive.running_mean), variance(naive.running_variance);
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        batch_norm_evaluate(backend, x.template input<columns>(), parameters.gain.data(), parameters.bias.data(),
                            epsilon, mean.data(), variance.data(), y.template output<columns>());
      },
      y);
  expect_close("y", y, expected);
}

TYPED_TEST(DeviceBatchNorm, EvaluationUsesTheRunningStatistics) {
  check_evaluation<TypeParam, 1>(1, true);
  check_evaluation<TypeParam, 40>(600, true);
  check_evaluation<TypeParam, 37>(3, false);
}

}  // namespace
}  // namespace tessera::test
