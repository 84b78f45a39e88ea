// For tests of single operations of the CPU backend: operands, comparison with a naive version in double, and the rules
// that every operation keeps.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include "tessera/core/arena.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera::test {

using Scalars = testing::Types<double, float>;

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

// Normal random values that a float holds exactly.
inline Matrix normal(Random& random, index rows, index columns, double center = 0, double scale = 1) {
  Matrix matrix(rows, columns);
  for (double& value : matrix.values) value = static_cast<double>(static_cast<float>(center + scale * random.normal()));
  return matrix;
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

template <int columns, class Scalar>
[[nodiscard]] Rows<const Scalar, columns> input(const Values<Scalar>& values) {
  return {values.data(), values.rows()};
}

template <int columns, class Scalar>
[[nodiscard]] Rows<Scalar, columns> output(Values<Scalar>& values) {
  return {values.data(), values.rows()};
}

// What rounding may change, relative to the largest magnitude of a tensor.
template <class Scalar>
inline constexpr double rounding = sizeof(Scalar) == 8 ? 1e-12 : 5e-6;

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

// Takes everything that was planned, which fails if some of it was not given back, and makes it NaN.
inline void spoil(Arena<cpu::Memory>& arena) {
  const Arena<cpu::Memory>::Frame frame(arena);
  const index bytes = arena.peak_bytes();
  std::memset(arena.take<std::byte>(bytes), 0xff, static_cast<std::size_t>(bytes));
}

// Runs an operation as a step does, with 1, 2 and 3 threads: while planning, when it must touch nothing; then in memory
// that others have used, as much as was planned. Nothing outside the outputs may change, and bits may not depend on the
// number of threads.
template <class Scalar>
void run_operation(const std::function<void(cpu::Backend<Scalar>&)>& operation,
                   std::initializer_list<Values<Scalar>*> outputs) {
  const auto copy = [&] {
    std::vector<Values<Scalar>> values;
    for (const Values<Scalar>* output : outputs) values.push_back(*output);
    return values;
  };
  const std::vector<Values<Scalar>> before = copy();
  std::vector<Values<Scalar>> first;
  for (int threads = 1; threads <= 3; ++threads) {
    const auto expect_all = [&](const auto& holds, const char* sentence) {
      for (std::size_t i = 0; i < outputs.size(); ++i)
        EXPECT_TRUE(holds(i, *outputs.begin()[i])) << "output " << i << ", " << threads << " threads: " << sentence;
    };
    for (std::size_t i = 0; i < outputs.size(); ++i) *outputs.begin()[i] = before[i];
    cpu::Backend<Scalar> backend(threads);
    operation(backend);
    expect_all([&](std::size_t i, const auto& output) { return output.same_bits(before[i]); },
               "was touched while planning");
    backend.arena().commit();
    spoil(backend.arena());
    operation(backend);
    spoil(backend.arena());
    expect_all([&](std::size_t i, const auto& output) { return output.same_guards(before[i]); },
               "something was written outside");
    if (threads == 1) first = copy();
    expect_all([&](std::size_t i, const auto& output) { return output.same_bits(first[i]); },
               "other bits than with one thread");
  }
}

}  // namespace tessera::test
