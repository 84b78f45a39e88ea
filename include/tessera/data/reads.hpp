// The data that an objective reads, as a type. Loaders, batches and memory follow from it.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/image.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// `count` random crops of every image, each of Image::size x Image::size pixels of Image::channels channels.
template <int count_, class Image_>
struct Crops {
  static_assert(count_ > 0, "tessera: an objective reads at least one crop of an image");
  static_assert(Image_::size >= 1 && Image_::size <= 1 << 14, "tessera: crops have 1 to 16384 pixels a side");
  static_assert(Image_::channels >= 1 && Image_::channels <= most_channels, "tessera: crops have 1 to 16 channels");
  static constexpr int count = count_;
  using Image = Image_;
};

// The label of every image.
struct Labels {
  static constexpr int classes = 0;  // any number
};

// The label of every image, one of 0, ..., classes - 1. A loader refuses data sets with others.
template <int classes_>
struct ClassLabels : Labels {
  static_assert(classes_ > 0, "tessera: there is at least one class of labels");
  static constexpr int classes = classes_;
};

namespace detail {

template <class>
inline constexpr bool is_crops = false;
template <int count, class Image>
inline constexpr bool is_crops<Crops<count, Image>> = true;

template <class Part>
inline constexpr bool is_labels = std::is_base_of_v<Labels, Part>;

template <class Part>
using GroupOf = std::conditional_t<is_crops<Part>, std::tuple<Part>, std::tuple<>>;

template <class First, class... Others>
consteval int common_channels(const std::tuple<First, Others...>&) {
  return ((Others::Image::channels == First::Image::channels) && ...) ? First::Image::channels : 1;
}

}  // namespace detail

// Groups of crops, in order, and labels if named: Reads<Crops<2, image<224>>, Crops<6, image<96>>, Labels>. The crops
// of a group lie in one matrix: crop 1 of all images, then crop 2.
template <class... Parts>
struct Reads {
  static_assert(((detail::is_crops<Parts> || detail::is_labels<Parts>)&&...),
                "tessera: an objective reads data::Crops<count, image<size>> and data::Labels");
  static_assert((detail::is_crops<Parts> || ...), "tessera: an objective reads at least one group of crops");
  using Groups = decltype(std::tuple_cat(detail::GroupOf<Parts>{}...));
  template <std::size_t group>
  using Group = std::tuple_element_t<group, Groups>;

  // Images are grey or have this many channels: that of all groups, or 1 where groups differ.
  static constexpr int channels = detail::common_channels(Groups{});
  static constexpr bool labels = (detail::is_labels<Parts> || ...);
  // The number of classes of the labels; 0 for any number.
  static constexpr int classes = [] {
    int named = 0;
    (
        [&] {
          if constexpr (detail::is_labels<Parts>) named = Parts::classes;
        }(),
        ...);
    return named;
  }();
  static constexpr std::size_t groups = std::tuple_size_v<Groups>;
  // The number of crops of an image in all groups.
  static constexpr int crops = [] {
    int sum = 0;
    (
        [&] {
          if constexpr (detail::is_crops<Parts>) sum += Parts::count;
        }(),
        ...);
    return sum;
  }();
};

namespace detail {

template <class>
inline constexpr bool is_reads = false;
template <class... Parts>
inline constexpr bool is_reads<Reads<Parts...>> = true;

}  // namespace detail

// A value of type Objective::Reads, for calls that deduce it: Loader(pictures, reads<MoCo>(), options).
template <class Objective>
[[nodiscard]] constexpr typename Objective::Reads reads() {
  return {};
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
