// The data of a step: the crops of a batch of images, and their labels.
#pragma once

#include <array>
#include <cstddef>
#include <tuple>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/data/reads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

namespace detail {

template <class Scalar, class>
struct RowsOf;
template <class Scalar, class... Groups>
struct RowsOf<Scalar, std::tuple<Groups...>> {
  using type = std::tuple<Rows<Scalar, Groups::Image::values>...>;
};

}  // namespace detail

// References to the crops and labels of a batch, in memory of a backend or of the host that others own. Group g of the
// crops is count*images x channels*size*size, with count = Group<g>::count and normalised planar values: crop 1 of all
// images, then crop 2.
template <class Scalar_, class Reads_>
struct Batch {
  using Scalar = Scalar_;
  using Reads = Reads_;
  typename detail::RowsOf<const Scalar, typename Reads::Groups>::type crops;
  const int* labels = nullptr;  // one for each image; null if Reads does not name Labels

  // A batch of `images` images without memory, for planning.
  [[nodiscard]] static Batch planned(index images) {
    Batch batch;
    [&]<std::size_t... g>(std::index_sequence<g...>) {
      ((std::get<g>(batch.crops).rows = Reads::template Group<g>::count * images), ...);
    }
    (std::make_index_sequence<Reads::groups>{});
    return batch;
  }

  [[nodiscard]] index images() const { return std::get<0>(crops).rows / Reads::template Group<0>::count; }

  // The addresses of the crops and labels. A recording is valid for these addresses alone.
  [[nodiscard]] auto addresses() const {
    std::array<const void*, Reads::groups + 1> all{};
    [&]<std::size_t... g>(std::index_sequence<g...>) {
      ((all[g] = std::get<g>(crops).data), ...);
    }
    (std::make_index_sequence<Reads::groups>{});
    all[Reads::groups] = labels;
    return all;
  }
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
