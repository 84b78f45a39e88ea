// Cubic interpolation of position tables.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Extents of a grid of patches, which are numbered row by row.
struct Grid {
  int rows, columns;
  [[nodiscard]] constexpr int size() const { return rows * columns; }
  constexpr bool operator==(const Grid&) const = default;
};

// Interpolation along one axis: output i is the sum over its four taps of weight[i][tap] * input[source[i][tap]].
template <class Scalar, int outputs>
struct CubicTaps {
  int source[outputs][4];
  Scalar weight[outputs][4];

  // The weight of `input` in `output`: the sum over its taps, since the first or last input may serve several of them.
  [[nodiscard]] TESSERA_HOST_DEVICE constexpr Scalar weight_of(int output, int input) const {
    Scalar sum = 0;
    for (int tap = 0; tap < 4; ++tap) sum += source[output][tap] == input ? weight[output][tap] : Scalar(0);
    return sum;
  }
};

// Taps that resample `inputs` values to `outputs` by cubic convolution with a = -0.75, half-pixel centres, repeated
// ends and no antialiasing, as PyTorch's bicubic interpolate (docs/method.md, 2.5). Output i lies at
// (i + 0.5) / scale - 0.5 with scale = (outputs + extra) / inputs. DINO uses extra = 0.1; 0 is the exact ratio.
template <class Scalar, int inputs, int outputs>
[[nodiscard]] constexpr CubicTaps<Scalar, outputs> cubic_taps(double extra) {
  constexpr double a = -0.75;
  const auto inner = [](double t) { return ((a + 2) * t - (a + 3)) * t * t + 1; };        // |t| <= 1
  const auto outer = [](double t) { return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a; };  // 1 < |t| < 2
  const double scale = (outputs + extra) / inputs;
  CubicTaps<Scalar, outputs> taps{};
  for (int i = 0; i < outputs; ++i) {
    const double at = (i + 0.5) / scale - 0.5;
    const int base = static_cast<int>(at + 1) - 1;  // floor: at > -1
    const double t = at - base;
    const double weights[4] = {outer(t + 1), inner(t), inner(1 - t), outer(2 - t)};
    for (int tap = 0; tap < 4; ++tap) {
      taps.source[i][tap] = smaller(larger(base + tap - 1, 0), inputs - 1);
      taps.weight[i][tap] = static_cast<Scalar>(weights[tap]);
    }
  }
  return taps;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
