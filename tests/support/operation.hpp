// For tests of single operations of the CPU backend: operands, comparison with a naive version in double, and the rules
// that every operation keeps.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tessera/core/arena.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera::test {

using Scalars = testing::Types<double, float, bf16>;

// What naive versions compute with. One without values stands for an absent operand.
struct Matrix {
  index rows = 0, columns = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(index height, index width, double value = 0)
      : rows(height), columns(width), values(static_cast<std::size_t>(height * width), value) {}

  [[nodiscard]] bool absent() const { return values.empty(); }
  double& operator()(index row, index column) { return values.data()[row * columns + column]; }
  double operator()(index row, index column) const { return values.data()[row * columns + column]; }
};

// A matrix's values rounded to Scalar. Naive versions compute the expected result from these.
template <class Scalar>
[[nodiscard]] Matrix stored(Matrix matrix) {
  using Sum = Accumulator<Scalar>;
  for (double& value : matrix.values)
    value = static_cast<double>(static_cast<Sum>(static_cast<Scalar>(static_cast<Sum>(value))));
  return matrix;
}

// Normal random values that Scalar holds exactly.
template <class Scalar = float>
[[nodiscard]] Matrix normal(Random& random, index rows, index columns, double center = 0, double scale = 1) {
  Matrix matrix(rows, columns);
  for (double& value : matrix.values) value = center + scale * random.normal();
  return stored<Scalar>(matrix);
}

// An operation's operand: scalars between guards, which have a value of their own for every operand.
template <class Scalar>
class Values {
 public:
  // NaN, so that what is not assigned shows.
  Values(index rows, index columns) : Values(Matrix(rows, columns, std::numeric_limits<double>::quiet_NaN())) {}

  explicit Values(const Matrix& from)
      : rows_(from.rows), columns_(from.columns), all_(from.values.size() + 2 * guard, next_guard()) {
    for (std::size_t i = 0; i < from.values.size(); ++i) all_[guard + i] = Scalar(static_cast<Sum>(from.values[i]));
  }

  [[nodiscard]] index rows() const { return rows_; }
  [[nodiscard]] index columns() const { return columns_; }
  [[nodiscard]] Scalar* data() { return rows_ > 0 ? all_.data() + guard : nullptr; }
  [[nodiscard]] const Scalar* data() const { return rows_ > 0 ? all_.data() + guard : nullptr; }
  [[nodiscard]] std::span<const Scalar> span() const { return {data(), all_.size() - 2 * guard}; }
  [[nodiscard]] double operator()(index row, index column) const {
    return static_cast<double>(static_cast<Sum>(data()[row * columns_ + column]));
  }

  [[nodiscard]] bool same_bits(const Values& other) const {
    return all_.size() == other.all_.size() && same(other, 0, all_.size());
  }
  [[nodiscard]] bool same_guards(const Values& other) const {
    return same(other, 0, guard) && same(other, all_.size() - guard, guard);
  }

 private:
  using Sum = Accumulator<Scalar>;
  static constexpr std::size_t guard = 64;

  static Scalar next_guard() {
    static int operands = 0;
    return Scalar(static_cast<Sum>(++operands) * Sum(1e6));
  }

  [[nodiscard]] bool same(const Values& other, std::size_t first, std::size_t count) const {
    return std::memcmp(all_.data() + first, other.all_.data() + first, count * sizeof(Scalar)) == 0;
  }

  index rows_, columns_;
  std::vector<Scalar> all_;
};

// Sums, statistics and gradients of parameters of a backend for Scalar.
template <class Scalar>
using Sums = Values<Accumulator<Scalar>>;

// A parameter: its master values and, for bf16, the copy that products read, at first the rounded master values.
template <class Scalar>
class ParameterValues {
 public:
  explicit ParameterValues(const Matrix& from) : master_(from), copy_(has_copy ? from : Matrix()) {}

  operator Parameter<Scalar>() {
    if constexpr (has_copy)
      return {master_.data(), copy_.data()};
    else
      return master_.data();
  }
  [[nodiscard]] const Sums<Scalar>& master() const { return master_; }
  [[nodiscard]] bool copy_is_rounded_master() const {
    const std::span<const Accumulator<Scalar>> master = master_.span();
    return std::ranges::equal(copy_.span(), master.first(copy_.span().size()),
                              [](Scalar low, Accumulator<Scalar> high) {
                                const Scalar rounded(high);
                                return std::memcmp(&low, &rounded, sizeof(low)) == 0;
                              });
  }

  [[nodiscard]] bool same_bits(const ParameterValues& other) const {
    return master_.same_bits(other.master_) && copy_.same_bits(other.copy_);
  }
  [[nodiscard]] bool same_guards(const ParameterValues& other) const {
    return master_.same_guards(other.master_) && copy_.same_guards(other.copy_);
  }

 private:
  static constexpr bool has_copy = !std::is_pointer_v<Parameter<Scalar>>;

  Sums<Scalar> master_;
  Values<Scalar> copy_;
};

template <int columns, class Scalar>
[[nodiscard]] Rows<const Scalar, columns> input(const Values<Scalar>& values) {
  return {values.data(), values.rows()};
}

template <int columns, class Scalar>
[[nodiscard]] Rows<Scalar, columns> output(Values<Scalar>& values) {
  return {values.data(), values.rows()};
}

// The error that rounding may leave in a result stored as Scalar, relative to the largest magnitude of the tensor: some
// roundings of sums in float or double, or two of a bf16.
template <class Scalar>
inline constexpr double rounding = std::is_same_v<Scalar, bf16> ? 8e-3
                                   : sizeof(Scalar) == 8        ? 1e-12
                                                                : 5e-6;

// Every value within `bound` of the largest expected magnitude, or of 0.01 where all are smaller: some results are zero
// in exact arithmetic.
template <class Scalar>
void expect_close(const char* name, const Values<Scalar>& got, const Matrix& expected,
                  double bound = rounding<Scalar>) {
  ASSERT_EQ(got.rows(), expected.rows) << name;
  ASSERT_EQ(got.columns(), expected.columns) << name;
  double magnitude = 1e-2, worst = -1;
  index worst_row = 0, worst_column = 0;
  for (const double value : expected.values) magnitude = std::max(magnitude, std::abs(value));
  for (index row = 0; row < got.rows(); ++row)
    for (index column = 0; column < got.columns(); ++column) {
      const double off = std::abs(got(row, column) - expected(row, column));
      if (off <= worst || std::isnan(worst)) continue;
      worst = off;
      worst_row = row;
      worst_column = column;
    }
  EXPECT_TRUE(worst <= bound * magnitude)
      << fmt::format("{}({}, {}) is {}, expected {}: off by {:.2g}, allowed {:.2g}", name, worst_row, worst_column,
                     got(worst_row, worst_column), expected(worst_row, worst_column), worst, bound * magnitude);
}

// The same of a parameter's master values, and that its copy holds them rounded.
template <class Scalar>
void expect_close(const char* name, const ParameterValues<Scalar>& got, const Matrix& expected,
                  double bound = rounding<Accumulator<Scalar>>) {
  expect_close(name, got.master(), expected, bound);
  EXPECT_TRUE(got.copy_is_rounded_master()) << name;
}

// Takes everything that was planned, which fails if some of it was not given back, and makes it NaN.
inline void spoil(Arena<cpu::Memory>& arena) {
  const Arena<cpu::Memory>::Frame frame(arena);
  const index bytes = arena.peak_bytes();
  std::memset(arena.take<std::byte>(bytes), 0xff, static_cast<std::size_t>(bytes));
}

// Runs an operation as a step does, with 1, 2 and 3 threads: while planning, when it must touch nothing; then in memory
// that others have used, as much as was planned. Nothing outside the outputs may change, and bits may not depend on the
// number of threads.
template <class Scalar, class... Outputs>
void run_operation(const std::function<void(cpu::Backend<Scalar>&)>& operation, Outputs&... outputs) {
  const std::tuple<Outputs...> before(outputs...);
  std::tuple<Outputs...> first = before;
  const auto same_bits = [](const auto& a, const auto& b) { return a.same_bits(b); };
  const auto same_guards = [](const auto& a, const auto& b) { return a.same_guards(b); };
  for (int threads = 1; threads <= 3; ++threads) {
    const auto expect_all = [&](const auto& same, const std::tuple<Outputs...>& expected, const char* sentence) {
      int number = 0;
      const auto expect_one = [&](bool is_same) {
        EXPECT_TRUE(is_same) << "output " << number++ << ", " << threads << " threads: " << sentence;
      };
      std::apply([&](const auto&... other) { (..., expect_one(same(outputs, other))); }, expected);
    };
    std::tie(outputs...) = before;
    cpu::Backend<Scalar> backend(threads);
    operation(backend);
    expect_all(same_bits, before, "was touched while planning");
    backend.arena().commit();
    spoil(backend.arena());
    operation(backend);
    spoil(backend.arena());
    expect_all(same_guards, before, "something was written outside");
    if (threads == 1) first = std::tie(outputs...);
    expect_all(same_bits, first, "other bits than with one thread");
  }
}

}  // namespace tessera::test
