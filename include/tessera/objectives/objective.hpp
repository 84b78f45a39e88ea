// The declaration of an objective: its data, networks, buffers, settings and step. Loader, trainer, flags, checkpoint
// and metrics follow from it (docs/writing-an-objective.md).
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tessera/core/layout.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/objectives/settings.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// A text as a template argument.
template <std::size_t size>
struct Text {
  std::array<char, size> letters{};
  consteval Text(const char (&text)[size]) { std::copy_n(text, size, letters.begin()); }
  [[nodiscard]] constexpr std::string_view view() const { return {letters.data(), size - 1}; }
};

// Model with `name` in front of the names of its tensors.
template <Text name, class Model>
struct Named : Model {
  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& prefix) {
    return Model::declare(visit, prefix / name.view());
  }
};

// A network that the optimizer trains.
template <class Model_>
struct Trained {
  using Model = Model_;
};

// A moving average of the first tensors of the first trained network. Model has their shapes and roles, in their order,
// under names of its own. The parameters start as copies of theirs; the BatchNorm statistics are its own.
template <class Model_>
struct Average {
  using Model = Model_;
};

// A network that nothing changes, such as an encoder that was trained before: without gradients and optimizer states.
template <class Model_>
struct Frozen {
  using Model = Model_;
};

namespace detail {
struct BufferTag {};
}  // namespace detail

// A buffer, such as a queue or a centre: an array of the accumulation type that lives through training and is stored in
// checkpoints. Zero at first.
template <Text name, int... extents>
struct Buffer : detail::BufferTag {
  struct Model {
    template <class Leaf>
    struct Parameters {
      Leaf values{};
    };
    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& prefix) {
      return Parameters<typename Visit::Leaf>{
          visit(prefix / name.view(), Shape(extents...), Role::statistic, Initial::constant(0))};
    }
  };
};

namespace detail {

template <class>
inline constexpr bool is_trained = false;
template <class Model>
inline constexpr bool is_trained<Trained<Model>> = true;
template <class>
inline constexpr bool is_average = false;
template <class Model>
inline constexpr bool is_average<Average<Model>> = true;
template <class>
inline constexpr bool is_frozen = false;
template <class Model>
inline constexpr bool is_frozen<Frozen<Model>> = true;
// Tests for a base class, since nvcc 13.0 does not match a specialisation for Buffer<name, extents...>.
template <class Set>
inline constexpr bool is_buffer = std::is_base_of_v<BufferTag, Set>;

// Several models one after the other in one layout, so that the trained networks share one flat buffer.
template <class... Models>
struct Joined {
  template <class Leaf>
  using Parameters = std::tuple<typename Models::template Parameters<Leaf>...>;
  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& prefix) {
    return std::tuple{Models::declare(visit, prefix)...};
  }
};

template <class>
struct Join;
template <class... Sets>
struct Join<std::tuple<Sets...>> {
  using type = Joined<typename Sets::Model...>;
};

// The offset of each of several joined models in the flat buffer of parameters.
template <class... Sets>
consteval auto starts_of(std::type_identity<std::tuple<Sets...>>) {
  std::array<index, sizeof...(Sets)> starts{};
  index at = 0;
  std::size_t next = 0;
  ((starts[next++] = at, at += layout::count<typename Sets::Model>().cursor.parameters), ...);
  return starts;
}

// True if the tensors of Part have the shapes, roles and offsets of the first tensors of Whole, in their order.
template <class Part, class Whole>
consteval bool is_first_part() {
  const auto part = Layout<Part>::entries;
  const auto whole = Layout<Whole>::entries;
  if (part.size() > whole.size()) return false;
  for (std::size_t i = 0; i < part.size(); ++i)
    if (part[i].shape != whole[i].shape || part[i].role != whole[i].role || part[i].offset != whole[i].offset)
      return false;
  return true;
}
// True for sets that are no averages.
template <class Set, class Whole>
consteval bool follows() {
  if constexpr (is_average<Set>)
    return is_first_part<typename Set::Model, Whole>();
  else
    return true;
}

}  // namespace detail

// The network set of an objective, as Networks<Trained<Online>, Average<Target>, Buffer<"queue", 4096, 256>>; at least
// one network is trained.
template <class... Sets>
struct Networks {
  static_assert(((detail::is_trained<Sets> || detail::is_average<Sets> || detail::is_frozen<Sets> ||
                  detail::is_buffer<Sets>)&&...),
                "tessera: an objective's networks are Trained<Model>, Average<Model>, Frozen<Model> and Buffer<name, "
                "extents...>");
  static_assert((detail::is_trained<Sets> || ...), "tessera: an objective trains at least one network");

  using TrainedSets =
      decltype(std::tuple_cat(std::conditional_t<detail::is_trained<Sets>, std::tuple<Sets>, std::tuple<>>{}...));
  using AverageSets =
      decltype(std::tuple_cat(std::conditional_t<detail::is_average<Sets>, std::tuple<Sets>, std::tuple<>>{}...));
  using FrozenSets =
      decltype(std::tuple_cat(std::conditional_t<detail::is_frozen<Sets>, std::tuple<Sets>, std::tuple<>>{}...));
  using BufferSets =
      decltype(std::tuple_cat(std::conditional_t<detail::is_buffer<Sets>, std::tuple<Sets>, std::tuple<>>{}...));

  // All trained networks in one layout; its Parameters are a tuple with one element for each network.
  using Online = typename detail::Join<TrainedSets>::type;
  // The offsets of the trained networks in the flat buffer of Online's parameters.
  static constexpr auto starts = detail::starts_of(std::type_identity<TrainedSets>{});

 private:
  using First = typename std::tuple_element_t<0, TrainedSets>::Model;
  static_assert((detail::follows<Sets, First>() && ...),
                "tessera: an average has the shapes of the first tensors of the first trained network, in their order");
};

namespace detail {

template <class>
inline constexpr bool is_networks = false;
template <class... Sets>
inline constexpr bool is_networks<Networks<Sets...>> = true;

template <class O>
concept HasName = requires {
  { O::name } -> std::convertible_to<std::string_view>;
};
template <class O>
concept HasReads = data::detail::is_reads<typename O::Reads>;
template <class O>
concept HasNetworks = is_networks<typename O::Networks>;
template <class O>
concept HasSettings = requires(typename O::Settings settings) {
  settings_count<typename O::Settings>();
};
template <class O>
concept HasEncoder = requires {
  typename O::Encoder;
  O::Encoder::in;
  O::Encoder::out;
  { O::encoder_name } -> std::convertible_to<std::string_view>;
};

}  // namespace detail

// An objective. It may also have augmentation(), defaults(recipe), groups(settings) and smallest_batch, as the
// objectives of this folder.
//
// struct Mine {
//   static constexpr std::string_view name = "mine";
//   using Encoder = vit::Small<>;                                     // the network that is used after training
//   using Reads = data::Reads<data::Crops<2, Encoder::Image>>;
//   using Networks = objectives::Networks<objectives::Trained<objectives::Named<"base_encoder", Encoder>>>;
//   using Settings = objectives::NoSettings;
//   static constexpr std::string_view encoder_name = "base_encoder";  // prefix of the encoder's tensors
//   static const auto& encoder(const auto& networks);                 // the encoder's Parameters; networks: a tuple of
//                                                                     // those of all trained and all frozen networks
//   template <class Step> static void step(Step& s);                  // assigns gradients and the loss
// };
template <class Candidate>
concept Objective = detail::HasName<Candidate> && detail::HasReads<Candidate> && detail::HasNetworks<Candidate> &&
    detail::HasSettings<Candidate> && detail::HasEncoder<Candidate>;

// Fails by static_assert, with a sentence for each missing member of Candidate.
template <class Candidate>
consteval bool check_objective() {
  static_assert(detail::HasName<Candidate>, "tessera: an objective has a static constexpr std::string_view name");
  static_assert(detail::HasReads<Candidate>,
                "tessera: an objective has Reads = data::Reads<data::Crops<count, Image>..., data::Labels>");
  static_assert(detail::HasNetworks<Candidate>,
                "tessera: an objective has Networks = objectives::Networks<objectives::Trained<Model>, ...>");
  static_assert(detail::HasSettings<Candidate>,
                "tessera: an objective has Settings that list themselves by visit(), or objectives::NoSettings");
  static_assert(
      detail::HasEncoder<Candidate>,
      "tessera: an objective has an Encoder with in and out, and encoder_name, which is in front of its tensors");
  return true;
}

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
