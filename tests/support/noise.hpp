// Labelled images of noise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "tessera/core/random.hpp"
#include "tessera/data/idx.hpp"

namespace tessera::test {

// `count` grey images of 12 x 12 pixels in ten classes.
inline data::IdxDataset noise(int count) {
  Random random(5, Purpose::test, 0, 0);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count) * 144), labels(static_cast<std::size_t>(count));
  for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  for (auto& label : labels) label = static_cast<std::uint8_t>(random.below(10));
  return {12, 12, std::move(pixels), std::move(labels)};
}

}  // namespace tessera::test
