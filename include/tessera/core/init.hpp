// Initial values of a model's tensors (docs/method.md, 2.5, 2.6).
#pragma once

#include <cmath>
#include <span>

#include "tessera/core/layout.hpp"
#include "tessera/core/random.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Value of the sine-cosine position table at feature `channel` of `width` for the patch in (row, column):
// [sin(row w) | cos(row w) | sin(column w) | cos(column w)] with w_i = 10000^(-i / (width / 4)). width must be a
// multiple of 4 (docs/method.md, 2.5).
[[nodiscard]] inline double sincos_2d(int row, int column, int channel, int width) {
  const int quarter = width / 4, part = channel / quarter;
  const double angle = (part < 2 ? row : column) * std::pow(10000.0, -static_cast<double>(channel % quarter) / quarter);
  return part % 2 == 0 ? std::sin(angle) : std::cos(angle);
}

namespace detail {

template <class Scalar>
void fill_sincos_2d(const Entry& entry, Scalar* to) {
  const int tokens = entry.shape.extents[1], width = entry.shape.extents[2];
  int grid = 1;
  while ((grid + 1) * (grid + 1) <= tokens) ++grid;
  const int first = tokens - grid * grid;  // 1 with a class token, whose row is zero
  const bool columns_first = entry.initial.kind == Initial::Kind::sincos_2d_columns_first;
  for (int i = 0; i < first * width; ++i) to[i] = 0;
  for (int token = 0; token < grid * grid; ++token)
    for (int channel = 0; channel < width; ++channel) {
      const int row = token / grid, column = token % grid;
      to[(first + token) * width + channel] = static_cast<Scalar>(
          columns_first ? sincos_2d(column, row, channel, width) : sincos_2d(row, column, channel, width));
    }
}

template <class Scalar>
void fill(const Entry& entry, Random random, Scalar* to) {
  const double scale = entry.initial.scale;
  switch (entry.initial.kind) {
    case Initial::Kind::sincos_2d:
    case Initial::Kind::sincos_2d_columns_first:
      return fill_sincos_2d(entry, to);
    case Initial::Kind::constant:
      for (index i = 0; i < entry.size(); ++i) to[i] = static_cast<Scalar>(scale);
      return;
    case Initial::Kind::uniform:
      for (index i = 0; i < entry.size(); ++i)
        to[i] = static_cast<Scalar>(scale * (2.0 * (static_cast<double>(random.bits()) + 0.5) * 0x1p-32 - 1.0));
      return;
    case Initial::Kind::normal:
      for (index i = 0; i < entry.size(); ++i) to[i] = static_cast<Scalar>(scale * random.normal());
      return;
  }
}

}  // namespace detail

// Assigns the initial values of all entries to the flat buffers, in host memory; gaps between entries stay as they are.
// The values of a tensor depend on the seed and on its number alone (docs/method.md, 1.4); the first entry has
// `number`.
template <class Scalar>
void initialize(std::span<const Entry> entries, std::uint64_t seed, Scalar* parameters, Scalar* statistics,
                std::uint32_t number = 0) {
  for (const Entry& entry : entries)
    detail::fill(entry, Random(seed, Purpose::initial_value, 0, number++),
                 (entry.role == Role::statistic ? statistics : parameters) + entry.offset);
}

}  // namespace TESSERA_ABI
}  // namespace tessera
