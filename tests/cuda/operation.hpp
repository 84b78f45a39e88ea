// For tests of single operations of the CUDA backend: operands on the device, comparison with values in double, and the
// rules that every operation keeps. Tests are compiled twice: for the emulated device, where they run everywhere, and
// by nvcc for a real one.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <vector>

#include "support/operation.hpp"
#include "tessera/cuda/backend.hpp"

namespace tessera::test {

using DeviceScalars = testing::Types<float, bf16>;

// Why there is no device to test on; empty if there is one.
inline const std::string& missing_device() {
  static const std::string reason = [] {
    try {
      cuda::open_device(0);
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  }();
  return reason;
}

// The base of every test that needs a device.
template <class Scalar>
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!missing_device().empty()) GTEST_SKIP() << missing_device();
  }
};

// An operation's operand on the device, between guards.
template <class Scalar>
class DeviceValues {
 public:
  // NaN, so that what is not assigned shows.
  DeviceValues(index rows, index columns)
      : DeviceValues(Matrix(rows, columns, std::numeric_limits<double>::quiet_NaN())) {}

  explicit DeviceValues(const Matrix& from)
      : rows_(from.rows), columns_(from.columns), before_(from.values.size() + 2 * guard), buffer_(count()) {
    for (std::size_t i = 0; i < before_.size(); ++i)
      before_[i] = static_cast<Scalar>(static_cast<Accumulator<Scalar>>(
          i < guard || i >= guard + from.values.size() ? 1e6 + static_cast<double>(i % 7) : from.values[i - guard]));
    restore();
  }

  [[nodiscard]] index rows() const { return rows_; }
  [[nodiscard]] index columns() const { return columns_; }
  [[nodiscard]] Scalar* data() const { return rows_ > 0 ? buffer_.data() + guard : nullptr; }
  template <int width>
  [[nodiscard]] Rows<const Scalar, width> input() const {
    return {data(), rows_ * columns_ / width};
  }
  template <int width>
  [[nodiscard]] Rows<Scalar, width> output() const {
    return {data(), rows_ * columns_ / width};
  }

  void restore() const {
    cuda::check(cudaMemcpy(buffer_.data(), before_.data(), before_.size() * sizeof(Scalar), cudaMemcpyHostToDevice),
                "cudaMemcpy");
    cuda::check(cudaDeviceSynchronize(), "cudaMemcpy");  // the copy may still be on its way
  }
  [[nodiscard]] std::vector<Scalar> all() const {
    std::vector<Scalar> values(before_.size());
    cuda::check(cudaMemcpy(values.data(), buffer_.data(), values.size() * sizeof(Scalar), cudaMemcpyDeviceToHost),
                "cudaMemcpy");
    return values;
  }
  [[nodiscard]] Matrix values() const {
    const std::vector<Scalar> now = all();
    Matrix matrix(rows_, columns_);
    for (std::size_t i = 0; i < matrix.values.size(); ++i)
      matrix.values[i] = static_cast<double>(static_cast<Accumulator<Scalar>>(now[guard + i]));
    return matrix;
  }
  [[nodiscard]] bool untouched() const { return same(all(), 0, before_.size()); }
  [[nodiscard]] bool guards_untouched() const {
    const std::vector<Scalar> now = all();
    return same(now, 0, guard) && same(now, before_.size() - guard, guard);
  }

 private:
  static constexpr std::size_t guard = 128;  // keeps the alignment that entries of flat buffers have

  [[nodiscard]] index count() const { return static_cast<index>(before_.size()); }
  [[nodiscard]] bool same(const std::vector<Scalar>& now, std::size_t first, std::size_t size) const {
    return std::memcmp(now.data() + first, before_.data() + first, size * sizeof(Scalar)) == 0;
  }

  index rows_, columns_;
  std::vector<Scalar> before_;
  cuda::Buffer<Scalar> buffer_;
};

// What a result stored as Scalar may differ by, relative to the largest magnitude of the tensor: a few roundings of a
// float sum, or two of a bf16.
template <class Scalar>
inline constexpr double device_rounding = std::is_same_v<Scalar, bf16> ? rounding<bf16> : 1e-5;

template <class Scalar>
void expect_close(const char* name, const DeviceValues<Scalar>& got, const Matrix& expected,
                  double bound = device_rounding<Scalar>) {
  expect_close(name, Values<double>(got.values()), expected, bound);
}

// Runs an operation as a step does: while planning, when it must touch nothing; then in memory that was planned for it,
// twice, with the same bits. Nothing outside the outputs may change.
template <class Scalar, class... Outputs>
void run_on_device(const std::function<void(cuda::Backend<Scalar>&)>& operation, const Outputs&... outputs) {
  cuda::Backend<Scalar> backend;
  operation(backend);
  backend.wait();
  (..., [&] { EXPECT_TRUE(outputs.untouched()) << "an output was touched while planning"; }());
  backend.arena().commit();
  operation(backend);
  backend.wait();
  (..., [&] { EXPECT_TRUE(outputs.guards_untouched()) << "something was written outside an output"; }());
  const auto repeat = [&](const auto& output) {
    const auto first = output.all();
    return [&output, first] {
      const auto second = output.all();
      EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(first[0])), 0)
          << "other bits the second time";
    };
  };
  const auto checks = std::make_tuple(repeat(outputs)...);
  (..., outputs.restore());
  operation(backend);
  backend.wait();
  std::apply([](const auto&... check) { (..., check()); }, checks);
}

}  // namespace tessera::test
