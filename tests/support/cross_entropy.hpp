// Cross entropy with soft targets by its definition, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/operation.hpp"

namespace tessera::test {

// The numbers of a case of cross_entropy; lambda < 0 stands for no mixing.
struct CrossEntropyCase {
  index rows = 1, total = 1;
  double smoothing = 0, lambda = -1;
};

struct NaiveCrossEntropy {
  double loss = 0;
  Matrix d_logits;

  NaiveCrossEntropy(const Matrix& z, const std::vector<int>& labels, const CrossEntropyCase& c)
      : d_logits(z.rows, z.columns) {
    const double classes = static_cast<double>(z.columns), lambda = c.lambda < 0 ? 1 : c.lambda;
    const auto smooth = [&](int label, index k) { return c.smoothing / classes + (k == label ? 1 - c.smoothing : 0); };
    for (index r = 0; r < z.rows; ++r) {
      double largest = z(r, 0), sum = 0;
      for (index k = 0; k < z.columns; ++k) largest = std::max(largest, z(r, k));
      for (index k = 0; k < z.columns; ++k) sum += std::exp(z(r, k) - largest);
      for (index k = 0; k < z.columns; ++k) {
        const double target =
            lambda * smooth(labels.data()[r], k) + (1 - lambda) * smooth(labels.data()[z.rows - 1 - r], k);
        const double log_share = z(r, k) - largest - std::log(sum);
        loss -= target * log_share / static_cast<double>(c.total);
        d_logits(r, k) = (std::exp(log_share) - target) / static_cast<double>(c.total);
      }
    }
  }
};

// Labels in [0, classes), the first and the last among them.
inline std::vector<int> random_labels(index rows, int classes) {
  Random random(3, Purpose::test, 1, 0);
  std::vector<int> labels;
  for (index r = 0; r < rows; ++r)
    labels.push_back(static_cast<int>(random.below(static_cast<std::uint32_t>(classes))));
  labels.front() = classes - 1;
  labels.back() = rows > 1 ? 0 : classes - 1;
  return labels;
}

}  // namespace tessera::test
