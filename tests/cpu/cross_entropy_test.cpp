#include "tessera/cpu/cross_entropy.hpp"

#include "support/cross_entropy.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class CrossEntropy : public testing::Test {};
TYPED_TEST_SUITE(CrossEntropy, Scalars);

// The loss, which is added to 0.5 and does not depend on the number of threads.
template <int classes, class Scalar>
double run_loss(const Matrix& logits, const std::vector<int>& labels, const CrossEntropyCase& c,
                Values<Scalar>& d_logits) {
  const Values<Scalar> z(logits);
  std::vector<double> losses;
  run_operation<Scalar>(
      [&](auto& backend) {
        double loss = 0.5;
        cross_entropy(backend, input<classes>(z), labels.data(), c.smoothing > 0 ? &c.smoothing : nullptr,
                      c.lambda < 0 ? nullptr : &c.lambda, c.total, &loss, output<classes>(d_logits));
        if (backend.planning())
          EXPECT_EQ(loss, 0.5);
        else
          losses.push_back(loss - 0.5);
      },
      d_logits);
  for (const double loss : losses)
    EXPECT_TRUE(loss == losses[0] || (std::isnan(loss) && std::isnan(losses[0]))) << loss << ", then " << losses[0];
  return losses[0];
}

template <class Scalar, int classes>
void check(const CrossEntropyCase& c) {
  SCOPED_TRACE(fmt::format("{} rows of {}, {} classes, smoothing {}, lambda {}", c.rows, c.total, classes, c.smoothing,
                           c.lambda));
  Random random(1, Purpose::test, 0, 0);
  const Matrix logits = normal<Scalar>(random, c.rows, classes, 0, 3);
  const std::vector<int> labels = random_labels(c.rows, classes);
  const NaiveCrossEntropy naive(logits, labels, c);
  Values<Scalar> d_logits(c.rows, classes), unwanted(0, classes);
  EXPECT_NEAR(run_loss<classes>(logits, labels, c, d_logits), naive.loss, rounding<Accumulator<Scalar>> * 10);
  expect_close("d_logits", d_logits, naive.d_logits);
  EXPECT_NEAR(run_loss<classes>(logits, labels, c, unwanted), naive.loss, rounding<Accumulator<Scalar>> * 10);
}

TYPED_TEST(CrossEntropy, EqualsTheDefinition) {
  check<TypeParam, 1>({.rows = 2, .total = 2});
  check<TypeParam, 2>({.rows = 1, .total = 3});
  check<TypeParam, 7>({.rows = 6, .total = 6, .smoothing = 0.1, .lambda = 0.3});
  check<TypeParam, 10>({.rows = 33, .total = 66, .lambda = 0.7});
  check<TypeParam, 37>({.rows = 5, .total = 5, .smoothing = 0.2});
  check<TypeParam, 1000>({.rows = 70, .total = 70, .smoothing = 0.1, .lambda = 0.5});
}

TYPED_TEST(CrossEntropy, GradientMayLieOverTheLogits) {
  constexpr int classes = 10;
  const CrossEntropyCase c{.rows = 9, .total = 9, .smoothing = 0.1, .lambda = 0.25};
  Random random(1, Purpose::test, 0, 0);
  const Matrix logits = normal<TypeParam>(random, c.rows, classes);
  const std::vector<int> labels = random_labels(c.rows, classes);
  Values<TypeParam> z(logits);
  run_operation<TypeParam>(
      [&](auto& backend) {
        double loss = 0;
        cross_entropy(backend, Rows<const TypeParam, classes>{z.data(), c.rows}, labels.data(), &c.smoothing, &c.lambda,
                      c.total, &loss, output<classes>(z));
      },
      z);
  expect_close("d_logits", z, NaiveCrossEntropy(logits, labels, c).d_logits);
}

// docs/method.md, 9.2: the target of 10 classes with smoothing 0.1 is 0.91 and 0.01. All logits are equal, so that the
// loss is log 10 and the gradient 0.1 less the target.
TYPED_TEST(CrossEntropy, HasTheKnownValues) {
  constexpr int classes = 10;
  const CrossEntropyCase c{.rows = 1, .total = 1, .smoothing = 0.1};
  Values<TypeParam> d_logits(1, classes);
  EXPECT_NEAR(run_loss<classes>(Matrix(1, classes, 5), {4}, c, d_logits), std::log(10),
              rounding<Accumulator<TypeParam>>);
  Matrix expected(1, classes, 0.09);
  expected(0, 4) = -0.81;
  expect_close("d_logits", d_logits, expected);
}

TYPED_TEST(CrossEntropy, ExtremeLogitsDoNotOverflow) {
  constexpr int classes = 5;
  const CrossEntropyCase c{.rows = 5, .total = 5, .smoothing = 0.1, .lambda = 0.5};
  Matrix logits(5, classes, -8192);
  for (index r = 0; r < 5; ++r) logits(r, (r + 1) / 2) = 8192;
  const NaiveCrossEntropy naive(logits, {0, 1, 2, 3, 4}, c);
  Values<TypeParam> d_logits(5, classes);
  EXPECT_NEAR(run_loss<classes>(logits, {0, 1, 2, 3, 4}, c, d_logits), naive.loss,
              rounding<Accumulator<TypeParam>> * naive.loss);
  expect_close("d_logits", d_logits, naive.d_logits);
}

TYPED_TEST(CrossEntropy, AWrongLabelShows) {
  constexpr int classes = 5;
  Values<TypeParam> d_logits(3, classes);
  for (const int wrong : {-1, classes}) {
    const CrossEntropyCase c{.rows = 3, .total = 3};
    EXPECT_TRUE(std::isnan(run_loss<classes>(Matrix(3, classes), {0, wrong, 1}, c, d_logits)));
    EXPECT_TRUE(std::isnan(d_logits(1, 0)));
    EXPECT_FALSE(std::isnan(d_logits(2, 0)));
  }
}

TYPED_TEST(CrossEntropy, LossesAreKept) {
  const std::vector<double> losses{1, 2.5, 3};
  Sums<TypeParam> kept(1, 3);
  run_operation<TypeParam>(
      [&](auto& backend) {
        double loss = 7;
        keep_losses(backend, 3, losses.data(), 0.5, &loss, kept.data());
        EXPECT_EQ(loss, backend.planning() ? 7 : 3.25);
      },
      kept);
  for (index i = 0; i < 3; ++i) EXPECT_EQ(kept(0, i), losses[static_cast<std::size_t>(i)]);
}

// The gradient against five-point differences of the loss.
TEST(CrossEntropyGradient, EqualsDifferences) {
  constexpr int classes = 7;
  constexpr index rows = 4;
  constexpr double smoothing = 0.15, lambda = 0.35, h = 1e-3;
  Random random(1, Purpose::test, 0, 0);
  std::vector<double> z = normal(random, rows, classes).values, d(z.size());
  const std::vector<int> labels = random_labels(rows, classes);
  cpu::Backend<double> backend(1);
  const auto loss = [&](double* gradient) {
    double sum = 0;
    cross_entropy(backend, Rows<const double, classes>{z.data(), rows}, labels.data(), &smoothing, &lambda, rows, &sum,
                  Rows<double, classes>{gradient, rows});
    return sum;
  };
  loss(d.data());
  backend.arena().commit();
  loss(d.data());
  std::vector<double> unused(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double at = z[i];
    const auto shifted = [&](double shift) {
      z[i] = at + shift;
      return loss(unused.data());
    };
    const double expected = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
    z[i] = at;
    EXPECT_NEAR(d[i], expected, 1e-9);
  }
}

}  // namespace
}  // namespace tessera::test
