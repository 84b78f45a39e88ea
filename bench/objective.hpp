// The tensors and the batches of an objective, as benchmarks need them.
#pragma once

#include <tuple>

#include "tessera/core/layout.hpp"
#include "tessera/data/batch.hpp"

namespace bench {

// The trained networks, and the first moving average.
template <class Objective>
using OnlineLayout = tessera::Layout<typename Objective::Networks::Online>;
template <class Objective>
using Average = typename std::tuple_element_t<0, typename Objective::Networks::AverageSets>::Model;
template <class Objective>
using AverageLayout = tessera::Layout<Average<Objective>>;

// A batch of `images` images whose only group of crops is at `crops`.
template <class Objective, class Scalar>
[[nodiscard]] auto batch_of(const Scalar* crops, tessera::index images) {
  auto batch = tessera::data::Batch<Scalar, typename Objective::Reads>::planned(images);
  std::get<0>(batch.crops).data = crops;
  return batch;
}

}  // namespace bench
