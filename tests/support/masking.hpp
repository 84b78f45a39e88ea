// Masked auto-encoding by its definition, in double: what the operations of both backends are compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "support/operation.hpp"

namespace tessera::test {

// keep and restore of core/masking.hpp for noise (images x patches).
struct NaiveMask {
  std::vector<int> keep, restore;

  NaiveMask(const std::vector<float>& noise, index patches, index kept) : restore(noise.size()) {
    for (auto first = noise.begin(); first != noise.end(); first += patches) {
      std::vector<int> order(static_cast<std::size_t>(patches));
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, {}, [first](int patch) { return first[patch]; });
      keep.insert(keep.end(), order.begin(), order.begin() + kept);
      for (std::size_t place = 0; place < order.size(); ++place)
        restore[static_cast<std::size_t>(first - noise.begin() + order[place])] = static_cast<int>(place);
    }
  }
};

// Noise of few different values, so that some are equal.
inline std::vector<float> coarse_noise(Random& random, index count) {
  std::vector<float> noise;
  for (index i = 0; i < count; ++i) noise.push_back(static_cast<float>(random.below(40)) / 40);
  return noise;
}

// Sizes of a case: values are those of a token.
struct MaskedShape {
  index images, extra, patches, kept, values;

  [[nodiscard]] index all_rows() const { return images * (extra + patches); }
  [[nodiscard]] index kept_rows() const { return images * (extra + kept); }
};

struct NaiveUnshuffle {
  Matrix y, dx, d_mask_token;

  NaiveUnshuffle(const MaskedShape& s, const NaiveMask& mask, const Matrix& x, const Matrix& mask_token,
                 const Matrix& positions, const Matrix& dy)
      : y(s.all_rows(), s.values), dx(s.kept_rows(), s.values), d_mask_token(1, s.values) {
    for (index row = 0; row < y.rows; ++row) {
      const index image = row / (s.extra + s.patches), token = row % (s.extra + s.patches), patch = token - s.extra;
      const index place = patch < 0 ? patch : mask.restore.data()[image * s.patches + patch];
      const index from = image * (s.extra + s.kept) + s.extra + place;
      for (index c = 0; c < s.values; ++c) {
        y(row, c) = (place < s.kept ? x(from, c) : mask_token(0, c)) + positions(token, c);
        (place < s.kept ? dx(from, c) : d_mask_token(0, c)) += dy(row, c);
      }
    }
  }
};

// The targets of images (images x channels*size*size).
inline Matrix naive_targets(const Matrix& images, index channels, index size, index patch, bool normalized) {
  const index grid = size / patch, values = channels * patch * patch;
  Matrix targets(images.rows * grid * grid, values);
  for (index row = 0; row < targets.rows; ++row) {
    const index image = row / (grid * grid), top = row % (grid * grid) / grid * patch, left = row % grid * patch;
    for (index i = 0; i < values; ++i) {
      const index y = i / (patch * channels), x = i / channels % patch, c = i % channels;
      targets(row, i) = images(image, (c * size + top + y) * size + left + x);
    }
    if (!normalized) continue;
    double mean = 0, squares = 0;
    for (index i = 0; i < values; ++i) mean += targets(row, i) / static_cast<double>(values);
    for (index i = 0; i < values; ++i) squares += (targets(row, i) - mean) * (targets(row, i) - mean);
    for (index i = 0; i < values; ++i)
      targets(row, i) = (targets(row, i) - mean) / std::sqrt(squares / static_cast<double>(values - 1) + 1e-6);
  }
  return targets;
}

struct NaiveMaskedMse {
  double loss = 0;
  Matrix d_prediction;

  NaiveMaskedMse(const MaskedShape& s, const NaiveMask& mask, const Matrix& prediction, const Matrix& targets,
                 double weight, index total)
      : d_prediction(prediction.rows, prediction.columns) {
    const double scale = weight / static_cast<double>(total * s.values);
    for (index row = 0; row < targets.rows; ++row) {
      if (mask.restore.data()[row] < s.kept) continue;
      const index at = row / s.patches * (s.extra + s.patches) + s.extra + row % s.patches;
      for (index i = 0; i < s.values; ++i) {
        const double off = prediction(at, i) - targets(row, i);
        loss += scale * off * off;
        d_prediction(at, i) = 2 * scale * off;
      }
    }
  }
};

}  // namespace tessera::test
