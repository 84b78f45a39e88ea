#include "tessera/cuda/cross_entropy.hpp"

#include "cuda/operation.hpp"
#include "support/cross_entropy.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceCrossEntropy : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceCrossEntropy, DeviceScalars);

[[nodiscard]] cuda::Buffer<int> on_device(const std::vector<int>& labels) {
  cuda::Buffer<int> buffer(static_cast<index>(labels.size()));
  cuda::check(cudaMemcpy(buffer.data(), labels.data(), labels.size() * sizeof(int), cudaMemcpyHostToDevice),
              "cudaMemcpy");
  cuda::check(cudaDeviceSynchronize(), "cudaMemcpy");
  return buffer;
}

// The loss, which is added to 0.5, and d_logits, unless it has no rows.
template <int classes, class Scalar>
double run_loss(const Matrix& logits, const std::vector<int>& labels, const CrossEntropyCase& c,
                const DeviceValues<Scalar>& d_logits) {
  const DeviceValues<Scalar> z(logits);
  const cuda::Buffer<int> device_labels = on_device(labels);
  const DeviceValues<double> smoothing(Matrix(1, 1, c.smoothing)), lambda(Matrix(1, 1, c.lambda)),
      loss(Matrix(1, 1, 0.5));
  run_on_device<Scalar>(
      [&](cuda::Backend<Scalar>& backend) {
        cross_entropy(backend, z.template input<classes>(), static_cast<const int*>(device_labels.data()),
                      c.smoothing > 0 ? smoothing.data() : nullptr, c.lambda < 0 ? nullptr : lambda.data(), c.total,
                      loss.data(), d_logits.template output<classes>());
      },
      d_logits, loss);
  return loss.values()(0, 0) - 0.5;
}

template <class Scalar, int classes>
void check(const CrossEntropyCase& c) {
  SCOPED_TRACE(fmt::format("{} rows of {}, {} classes, smoothing {}, lambda {}", c.rows, c.total, classes, c.smoothing,
                           c.lambda));
  Random random(1, Purpose::test, 0, 0);
  const Matrix logits = stored<Scalar>(normal(random, c.rows, classes, 0, 3));
  const std::vector<int> labels = random_labels(c.rows, classes);
  const NaiveCrossEntropy naive(logits, labels, c);
  const DeviceValues<Scalar> d_logits(c.rows, classes), unwanted(0, classes);
  EXPECT_NEAR(run_loss<classes>(logits, labels, c, d_logits), naive.loss, 2e-6 * std::max(1.0, naive.loss));
  expect_close("d_logits", d_logits, naive.d_logits);
  EXPECT_NEAR(run_loss<classes>(logits, labels, c, unwanted), naive.loss, 2e-6 * std::max(1.0, naive.loss));
}

TYPED_TEST(DeviceCrossEntropy, EqualsTheDefinition) {
  check<TypeParam, 1>({.rows = 2, .total = 2});
  check<TypeParam, 2>({.rows = 1, .total = 3});
  check<TypeParam, 7>({.rows = 6, .total = 6, .smoothing = 0.1, .lambda = 0.3});
  check<TypeParam, 10>({.rows = 33, .total = 66, .lambda = 0.7});
  check<TypeParam, 37>({.rows = 5, .total = 5, .smoothing = 0.2});
  check<TypeParam, 1000>({.rows = 300, .total = 300, .smoothing = 0.1, .lambda = 0.5});
}

TYPED_TEST(DeviceCrossEntropy, GradientMayLieOverTheLogits) {
  constexpr int classes = 36;
  const CrossEntropyCase c{.rows = 9, .total = 9, .smoothing = 0.1, .lambda = 0.25};
  Random random(1, Purpose::test, 0, 0);
  const Matrix logits = stored<TypeParam>(normal(random, c.rows, classes));
  const std::vector<int> labels = random_labels(c.rows, classes);
  const cuda::Buffer<int> device_labels = on_device(labels);
  const DeviceValues<TypeParam> z(logits);
  const DeviceValues<double> smoothing(Matrix(1, 1, c.smoothing)), lambda(Matrix(1, 1, c.lambda)), loss(Matrix(1, 1));
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        cross_entropy(backend, z.template input<classes>(), static_cast<const int*>(device_labels.data()),
                      static_cast<const double*>(smoothing.data()), static_cast<const double*>(lambda.data()), c.total,
                      loss.data(), z.template output<classes>());
      },
      z, loss);
  expect_close("d_logits", z, NaiveCrossEntropy(logits, labels, c).d_logits);
}

TYPED_TEST(DeviceCrossEntropy, ExtremeLogitsDoNotOverflow) {
  constexpr int classes = 5;
  const CrossEntropyCase c{.rows = 5, .total = 5, .smoothing = 0.1, .lambda = 0.5};
  Matrix logits(5, classes, -8192);
  for (index r = 0; r < 5; ++r) logits(r, (r + 1) / 2) = 8192;
  const NaiveCrossEntropy naive(logits, {0, 1, 2, 3, 4}, c);
  const DeviceValues<TypeParam> d_logits(5, classes);
  EXPECT_NEAR(run_loss<classes>(logits, {0, 1, 2, 3, 4}, c, d_logits), naive.loss, 2e-6 * naive.loss);
  expect_close("d_logits", d_logits, naive.d_logits);
}

TYPED_TEST(DeviceCrossEntropy, ShowsAWrongLabelAndWhatIsNotANumber) {
  constexpr int classes = 5;
  for (const int wrong : {-1, classes}) {
    const DeviceValues<TypeParam> d_logits(3, classes);
    const CrossEntropyCase c{.rows = 3, .total = 3};
    EXPECT_TRUE(std::isnan(run_loss<classes>(Matrix(3, classes), {0, wrong, 1}, c, d_logits)));
    EXPECT_TRUE(std::isnan(d_logits.values()(1, 0)));
    EXPECT_FALSE(std::isnan(d_logits.values()(2, 0)));
  }
  const DeviceValues<TypeParam> d_logits(3, classes);
  Matrix logits(3, classes);
  logits(1, 2) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(run_loss<classes>(logits, {0, 1, 2}, {.rows = 3, .total = 3}, d_logits)));
}

}  // namespace
}  // namespace tessera::test
