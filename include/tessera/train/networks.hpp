// The networks of an objective in memory of a backend: flat buffers that Layout describes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/core/init.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// One tensor under its public name, in memory of the backend.
template <class Scalar>
struct NamedTensor {
  std::string name;
  Shape shape;
  Scalar* data;
};

// The tensors of one model: master values, a copy of lower precision where products read one, BatchNorm statistics.
template <class Backend, class Model>
class Network {
 public:
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  static constexpr bool has_copy = !std::is_same_v<Scalar, Master>;
  static constexpr index bytes =
      static_cast<index>(sizeof(Master) + (has_copy ? sizeof(Scalar) : 0)) * Layout<Model>::parameters +
      static_cast<index>(sizeof(Master)) * Layout<Model>::statistics;

  [[nodiscard]] Parameter<Scalar> parameters() const {
    if constexpr (has_copy)
      return {master_.data(), copy_.data()};
    else
      return master_.data();
  }
  [[nodiscard]] Master* statistics() const { return statistics_.data(); }
  [[nodiscard]] auto bind() const { return tessera::bind<Model>(parameters(), statistics()); }

  // Assigns all tensors from flat buffers of the host.
  void assign(Backend& backend, const Master* parameters, const Master* statistics) const {
    backend.upload(Layout<Model>::parameters, parameters, static_cast<Master*>(this->parameters()));
    backend.upload(Layout<Model>::statistics, statistics, this->statistics());
  }

  // Makes the copy equal to the master values again.
  void refresh(Backend& backend) const {
    if constexpr (has_copy) copy_to_low(backend, Layout<Model>::parameters, parameters());
  }

  // Appends the tensors under their names.
  void append(std::vector<NamedTensor<Master>>& tensors) const {
    Master* const parameters = this->parameters();
    for (const Entry& entry : Layout<Model>::entries)
      tensors.push_back({std::string(entry.name.view()), entry.shape,
                         (entry.role == Role::statistic ? statistics() : parameters) + entry.offset});
  }

 private:
  template <class Element>
  using Buffer = typename Backend::template Buffer<Element>;
  Buffer<Master> master_{Layout<Model>::parameters};
  Buffer<Scalar> copy_{has_copy ? Layout<Model>::parameters : 0};
  Buffer<Master> statistics_{Layout<Model>::statistics};
};

// Everything that Networks lists: the trained networks in one layout (Online), their moving averages, the frozen
// networks, the buffers.
template <class Backend, class Networks>
class NetworkSet {
 public:
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Online = typename Networks::Online;

  // Assigns the initial values. Online starts from the seed, and so do frozen networks; averages start as Online does,
  // buffers as their models say. Until then all are 0.
  void start(Backend& backend, std::uint64_t seed) const {
    std::vector<Master> parameters(static_cast<std::size_t>(Layout<Online>::parameters));
    std::vector<Master> statistics(static_cast<std::size_t>(Layout<Online>::statistics));
    initialize(std::span<const Entry>(Layout<Online>::entries), seed, parameters.data(), statistics.data());
    online_.assign(backend, parameters.data(), statistics.data());
    for_each(averages_, [&](const auto& network) { network.assign(backend, parameters.data(), statistics.data()); });
    auto number = static_cast<std::uint32_t>(Layout<Online>::entries.size());
    for_each(frozen_, [&]<class Model>(const Network<Backend, Model>& network) {
      parameters.assign(static_cast<std::size_t>(Layout<Model>::parameters), Master{});  // gaps are 0
      statistics.assign(static_cast<std::size_t>(Layout<Model>::statistics), Master{});
      initialize(std::span<const Entry>(Layout<Model>::entries), seed, parameters.data(), statistics.data(), number);
      network.assign(backend, parameters.data(), statistics.data());
      number += static_cast<std::uint32_t>(Layout<Model>::entries.size());
    });
    refresh(backend);
  }

  [[nodiscard]] const auto& online() const { return online_; }
  template <std::size_t which>
  [[nodiscard]] const auto& average() const {
    return std::get<which>(averages_);
  }
  template <std::size_t which>
  [[nodiscard]] const auto& frozen() const {
    return std::get<which>(frozen_);
  }
  // The tensors of the trained networks and of the frozen ones, a tuple.
  [[nodiscard]] auto bind() const {
    return std::apply(
        [&](const auto&... network) { return std::tuple_cat(online_.bind(), std::tuple{network.bind()}...); }, frozen_);
  }
  [[nodiscard]] index bytes() const {
    index sum = online_.bytes;
    for_each(averages_, [&](const auto& network) { sum += network.bytes; });
    for_each(frozen_, [&](const auto& network) { sum += network.bytes; });
    for_each(buffers_, [&](const auto& network) { sum += network.bytes; });
    return sum;
  }

  [[nodiscard]] objectives::State<Scalar, Networks> state(Master* gradient) const {
    objectives::State<Scalar, Networks> state;
    state.online = online_.parameters();
    state.online_statistics = online_.statistics();
    state.gradient = gradient;
    std::size_t next = 0;
    for_each(averages_, [&](const auto& network) {
      state.averages[next] = network.parameters();
      state.average_statistics[next++] = network.statistics();
    });
    next = 0;
    for_each(frozen_, [&](const auto& network) {
      state.frozen[next] = network.parameters();
      state.frozen_statistics[next++] = network.statistics();
    });
    next = 0;
    for_each(buffers_, [&](const auto& network) { state.buffers[next++] = network.statistics(); });
    return state;
  }

  void refresh(Backend& backend) const {
    online_.refresh(backend);
    for_each(averages_, [&](const auto& network) { network.refresh(backend); });
    for_each(frozen_, [&](const auto& network) { network.refresh(backend); });
  }

  // All tensors under their public names: Online, the averages, the frozen networks, the buffers.
  [[nodiscard]] std::vector<NamedTensor<Master>> tensors() const {
    std::vector<NamedTensor<Master>> all;
    online_.append(all);
    for_each(averages_, [&](const auto& network) { network.append(all); });
    for_each(frozen_, [&](const auto& network) { network.append(all); });
    for_each(buffers_, [&](const auto& network) { network.append(all); });
    return all;
  }

 private:
  template <class>
  struct Each;
  template <class... Sets>
  struct Each<std::tuple<Sets...>> {
    using type = std::tuple<Network<Backend, typename Sets::Model>...>;
  };
  template <class Tuple, class Body>
  static void for_each(const Tuple& networks, Body&& body) {
    std::apply([&](const auto&... network) { (body(network), ...); }, networks);
  }

  Network<Backend, Online> online_;
  typename Each<typename Networks::AverageSets>::type averages_;
  typename Each<typename Networks::FrozenSets>::type frozen_;
  typename Each<typename Networks::BufferSets>::type buffers_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
