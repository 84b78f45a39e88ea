// Operations by their definition, in double: what those of both backends are compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "support/operation.hpp"
#include "tessera/core/info_nce.hpp"
#include "tessera/optim/adamw.hpp"
#include "tessera/optim/sgd.hpp"

namespace tessera::test {

// Softmax attention by the definition, all heads of all images.
struct NaiveAttention {
  index tokens, heads, width, dim, images;
  Matrix qkv, weights, log_sums, out;

  NaiveAttention(index tokens_of_image, index number_of_heads, const Matrix& from)
      : tokens(tokens_of_image),
        heads(number_of_heads),
        width(from.columns / 3),
        dim(width / heads),
        images(from.rows / tokens),
        qkv(from),
        weights(images * heads * tokens, tokens),
        log_sums(images * heads, tokens),
        out(images * tokens, width) {
    for_pairs([&](index head, index i, index j, const Place& at) {
      for (index c = 0; c < dim; ++c)
        weights(head * tokens + i, j) += qkv(at.query, at.column + c) * qkv(at.key, width + at.column + c) * scale();
    });
    for (index row = 0; row < weights.rows; ++row) {
      double largest = weights(row, 0), sum = 0;
      for (index j = 0; j < tokens; ++j) largest = std::max(largest, weights(row, j));
      for (index j = 0; j < tokens; ++j) sum += weights(row, j) = std::exp(weights(row, j) - largest);
      for (index j = 0; j < tokens; ++j) weights(row, j) /= sum;
      log_sums(row / tokens, row % tokens) = largest + std::log(sum);
    }
    for_pairs([&](index head, index i, index j, const Place& at) {
      for (index c = 0; c < dim; ++c)
        out(at.query, at.column + c) += weights(head * tokens + i, j) * qkv(at.key, 2 * width + at.column + c);
    });
  }

  [[nodiscard]] Matrix gradient(const Matrix& d_out) const {
    Matrix d_qkv(qkv.rows, qkv.columns), d_weights(weights.rows, tokens), along(weights.rows, 1);
    for_pairs([&](index head, index i, index j, const Place& at) {
      const index row = head * tokens + i;
      for (index c = 0; c < dim; ++c) {
        d_weights(row, j) += d_out(at.query, at.column + c) * qkv(at.key, 2 * width + at.column + c);
        d_qkv(at.key, 2 * width + at.column + c) += weights(row, j) * d_out(at.query, at.column + c);
      }
      along(row, 0) += weights(row, j) * d_weights(row, j);
    });
    for_pairs([&](index head, index i, index j, const Place& at) {
      const index row = head * tokens + i;
      const double d_score = weights(row, j) * (d_weights(row, j) - along(row, 0)) * scale();
      for (index c = 0; c < dim; ++c) {
        d_qkv(at.query, at.column + c) += d_score * qkv(at.key, width + at.column + c);
        d_qkv(at.key, width + at.column + c) += d_score * qkv(at.query, at.column + c);
      }
    });
    return d_qkv;
  }

 private:
  struct Place {
    index query, key, column;  // rows of query and key, and the head's first column
  };

  [[nodiscard]] double scale() const { return 1 / std::sqrt(static_cast<double>(dim)); }

  // Every query i with every key j of every image's every head.
  template <class Visit>
  void for_pairs(Visit&& visit) const {
    for (index head = 0; head < images * heads; ++head)
      for (index i = 0; i < tokens; ++i)
        for (index j = 0; j < tokens; ++j) {
          const index image = head / heads;
          visit(head, i, j, Place{image * tokens + i, image * tokens + j, head % heads * dim});
        }
  }
};

// Rows of unit length, up to the rounding to Scalar.
template <class Scalar>
[[nodiscard]] Matrix unit_rows(Random& random, index rows, index columns) {
  Matrix x = normal(random, rows, columns);
  for (index r = 0; r < rows; ++r) {
    double squares = 0;
    for (index c = 0; c < columns; ++c) squares += x(r, c) * x(r, c);
    for (index c = 0; c < columns; ++c) x(r, c) /= std::sqrt(squares);
  }
  return stored<Scalar>(x);
}

// MoCo v3's loss: 2 temperature times a mean of cross entropies.
inline constexpr InfoNce moco_term{.weight = 2, .times_temperature = true};

// A loss by the definition: the term's factor / total times the cross entropies' sum.
struct NaiveLoss {
  double loss = 0;
  Matrix d_q;

  NaiveLoss(const Matrix& q, const Matrix& k, double temperature, index first_label, index total,
            InfoNce term = moco_term)
      : d_q(q.rows, q.columns) {
    const double n = static_cast<double>(total);
    for (index row = 0; row < q.rows; ++row) {
      std::vector<double> logits(static_cast<std::size_t>(k.rows));
      for (index j = 0; j < k.rows; ++j)
        for (index c = 0; c < q.columns; ++c) logits.data()[j] += q(row, c) * k(j, c) / temperature;
      const double largest = *std::ranges::max_element(logits);
      double sum = 0;
      for (const double z : logits) sum += std::exp(z - largest);
      for (index j = 0; j < k.rows; ++j) {
        const double log_share = logits.data()[j] - largest - std::log(sum);
        const bool positive = j == first_label + row;
        if (positive) loss -= term.weight * (term.times_temperature ? temperature : 1) / n * log_share;
        for (index c = 0; c < q.columns; ++c)
          d_q(row, c) += term.weight / (term.times_temperature ? 1 : temperature) / n *
                         (std::exp(log_share) - (positive ? 1 : 0)) * k(j, c);
      }
    }
  }
};

// SimCLR's loss by its definition, for all rows of z as anchors: G = softmax(S) - [j = p(i)] with -infinity on the
// diagonal of S, d loss / d S = G / 2n and S is symmetric in z.
struct NaiveNtXent {
  Matrix losses, log_sums, d_z;

  NaiveNtXent(const Matrix& z, double temperature) : losses(z.rows, 1), log_sums(z.rows, 1), d_z(z.rows, z.columns) {
    const index n = z.rows;
    Matrix s(n, n), g(n, n);
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < n; ++j)
        for (index c = 0; c < z.columns; ++c) s(i, j) += z(i, c) * z(j, c) / temperature;
    for (index i = 0; i < n; ++i) {
      const index positive = (i + n / 2) % n;
      double largest = s(i, positive), sum = 0;
      for (index j = 0; j < n; ++j)
        if (j != i) largest = std::max(largest, s(i, j));
      for (index j = 0; j < n; ++j)
        if (j != i) sum += std::exp(s(i, j) - largest);
      log_sums(i, 0) = largest + std::log(sum);
      losses(i, 0) = (largest - s(i, positive) + std::log(sum)) / static_cast<double>(n);
      for (index j = 0; j < n; ++j)
        if (j != i) g(i, j) = std::exp(s(i, j) - largest) / sum - (j == positive ? 1 : 0);
    }
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < n; ++j)
        for (index c = 0; c < z.columns; ++c)
          d_z(i, c) += (g(i, j) + g(j, i)) * z(j, c) / (static_cast<double>(n) * temperature);
  }

  // Of the anchors [first, first + count).
  [[nodiscard]] double loss(index first, index count) const {
    return std::accumulate(losses.values.begin() + first, losses.values.begin() + first + count, 0.0);
  }
};

inline constexpr double layer_norm_epsilon = 1e-6;

// Mean and 1 / standard deviation of every row.
inline Matrix naive_statistics(const Matrix& x) {
  Matrix statistics(x.rows, 2);
  for (index r = 0; r < x.rows; ++r) {
    double sum = 0, squares = 0;
    for (index c = 0; c < x.columns; ++c) sum += x(r, c);
    const double mean = sum / static_cast<double>(x.columns);
    for (index c = 0; c < x.columns; ++c) squares += (x(r, c) - mean) * (x(r, c) - mean);
    statistics(r, 0) = mean;
    statistics(r, 1) = 1 / std::sqrt(squares / static_cast<double>(x.columns) + layer_norm_epsilon);
  }
  return statistics;
}

// By the Jacobian: d normalized_i / d x_j = scale (delta_ij - 1/n - normalized_i normalized_j / n).
inline Matrix naive_input_gradient(const Matrix& normalized, const Matrix& statistics, const Matrix& gain,
                                   const Matrix& dy) {
  const double n = static_cast<double>(dy.columns);
  Matrix dx(dy.rows, dy.columns);
  for (index r = 0; r < dy.rows; ++r)
    for (index j = 0; j < dy.columns; ++j)
      for (index i = 0; i < dy.columns; ++i)
        dx(r, j) += dy(r, i) * gain(0, i) * statistics(r, 1) *
                    ((i == j ? 1 : 0) - 1 / n - normalized(r, i) * normalized(r, j) / n);
  return dx;
}

// Pairs every value of every patch with the pixel that it is a copy of, if that is inside the image.
template <int channels, int size, int kernel, int stride, int padding, class Visit>
void for_copies(index images, Visit&& visit) {
  constexpr index out = (size + 2 * padding - kernel) / stride + 1;
  for (index patch = 0; patch < images * out * out; ++patch)
    for (index value = 0; value < channels * kernel * kernel; ++value) {
      const index image = patch / (out * out), channel = value / (kernel * kernel);
      const index y = patch / out % out * stride + value / kernel % kernel - padding;
      const index x = patch % out * stride + value % kernel - padding;
      if (0 <= y && y < size && 0 <= x && x < size) visit(patch, value, (image * size + y) * size + x, channel);
    }
}

inline double size_of(const Matrix& tensor) {
  double squares = 0;
  for (const double value : tensor.values) squares += value * value;
  return std::sqrt(squares);
}

struct Adam {
  Matrix gradient, weight, moment1, moment2;

  // In the midst of a training.
  static Adam random(index count) {
    Random random(1, Purpose::test, 0, 0);
    Adam adam{normal(random, 1, count), normal(random, 1, count), normal(random, 1, count, 0, 0.1),
              normal(random, 1, count)};
    for (double& value : adam.moment2.values) value = static_cast<double>(static_cast<float>(value * value));
    adam.gradient(0, 0) = adam.moment1(0, 0) = adam.moment2(0, 0) = 0;
    return adam;
  }

  // Moves the moments and returns the bias-corrected direction.
  Matrix direction(const optim::AdamCoefficients& c) {
    Matrix direction(1, gradient.columns);
    for (index i = 0; i < gradient.columns; ++i) {
      const double g = gradient(0, i);
      moment1(0, i) = c.beta1 * moment1(0, i) + (1 - c.beta1) * g;
      moment2(0, i) = c.beta2 * moment2(0, i) + (1 - c.beta2) * g * g;
      direction(0, i) = moment1(0, i) * c.correction1 / (std::sqrt(moment2(0, i) * c.correction2) + c.epsilon);
    }
    return direction;
  }
};

struct Momentum {
  Matrix gradient, weight, velocity;

  static Momentum random(index count) {
    Random random(1, Purpose::test, 0, 0);
    return {normal(random, 1, count), normal(random, 1, count, 0, 0.5), normal(random, 1, count)};
  }
  // velocity = momentum velocity + rate (gradient + decay weight); weight -= learning_rate velocity.
  void move(const optim::MomentumCoefficients& c, double rate, double decay) {
    for (index i = 0; i < gradient.columns; ++i) {
      velocity(0, i) = c.momentum * velocity(0, i) + rate * (gradient(0, i) + decay * weight(0, i));
      weight(0, i) -= c.learning_rate * velocity(0, i);
    }
  }
};

// At step 1, and later.
inline constexpr optim::AdamCoefficients early{0.5, 0.2, 0.9, 0.999, 1e-3, 10, 1000, 31.622776601683793},
    late{0.01, 0.1, 0.9, 0.95, 1e-8, 1.7, 3.1, 1.760681686165901};

// One element before an update at the coefficients below; moment1 is the velocity where that is the only state.
struct Element {
  double gradient = 0, weight = 1, moment1 = 0, moment2 = 1;
};
// The update makes the weight infinite, and no state. Scalar: what the backend updates.
template <class Scalar>
inline constexpr Element overflowing_weight{.weight = std::numeric_limits<Scalar>::max(),
                                            .moment1 = -0.9 * std::numeric_limits<Scalar>::max()};
// It makes a state infinite: Adam's second moment, which leaves the weight finite, or a velocity.
template <class Scalar>
inline constexpr Element overflowing_state{.gradient = std::numeric_limits<Scalar>::max(),
                                           .moment1 = 0.5 * std::numeric_limits<Scalar>::max()};
// Without epsilon the lanes behind the end of a tensor, where all values are 0, become 0 / 0 by Adam.
inline constexpr optim::AdamCoefficients without_epsilon{1, 0, 0.9, 0.9, 0, 1, 1, 1};
inline constexpr optim::MomentumCoefficients without_trust{1, 0, 0.9, 1};

// A tensor of ordinary elements, of which the one at `at` is another.
struct WithOneElement {
  Matrix gradient, weight, moment1, moment2;

  WithOneElement(index count, index at, const Element& other)
      : gradient(1, count), weight(1, count, 1), moment1(1, count), moment2(1, count, 1) {
    gradient(0, at) = other.gradient;
    weight(0, at) = other.weight;
    moment1(0, at) = other.moment1;
    moment2(0, at) = other.moment2;
  }
};

}  // namespace tessera::test
