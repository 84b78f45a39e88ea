// The argument of an objective's step: batch, networks, settings, and the calls between ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "tessera/comm/serial.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/batch.hpp"
#include "tessera/objectives/objective.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// A trained network in a step: pointers to its tensors and to their gradients.
template <class Parameters, class Gradients>
struct Bound {
  Parameters p;
  Gradients g;
};

// The flat buffers of the network set of an objective, in memory of the backend.
template <class Scalar, class Networks>
struct State {
  Parameter<Scalar> online{};
  Accumulator<Scalar>* gradient = nullptr;
  Accumulator<Scalar>* online_statistics = nullptr;
  std::array<Parameter<Scalar>, std::tuple_size_v<typename Networks::AverageSets>> averages{};
  std::array<Accumulator<Scalar>*, std::tuple_size_v<typename Networks::AverageSets>> average_statistics{};
  std::array<Parameter<Scalar>, std::tuple_size_v<typename Networks::FrozenSets>> frozen{};
  std::array<Accumulator<Scalar>*, std::tuple_size_v<typename Networks::FrozenSets>> frozen_statistics{};
  std::array<Accumulator<Scalar>*, std::tuple_size_v<typename Networks::BufferSets>> buffers{};
};

using tessera::StepNumber;

// Passed to Objective::step(Step& s). All pointers are to memory of the backend, and null while planning.
template <class Objective_, class Context_>
class Step {
 public:
  using Objective = Objective_;
  using Context = Context_;
  using Scalar = typename Context::Scalar;
  using Reads = typename Objective::Reads;
  using Networks = typename Objective::Networks;
  using Settings = typename Objective::Settings;
  using Values = SettingsValues<Settings>;
  static_assert(Context::shared || std::is_same_v<typename Context::Communicator, comm::Serial>,
                "tessera: several ranks exchange features and gradients: give the context a comm::Replicated or "
                "comm::ZeroStage1, as Trainer does");

  Context& context;

  Step(Context& of, const data::Batch<Scalar, Reads>& batch, const State<Scalar, Networks>& state, const double* values,
       const StepNumber* number, double* loss)
      : context(of), batch_(batch), state_(state), values_(values), number_(number), loss_(loss) {}

  // The number of images of this rank, the number of the first of them in the batch of all ranks, and the size of that
  // batch.
  [[nodiscard]] index images() const { return batch_.images(); }
  [[nodiscard]] index first_image() const { return images() * context.communicator.rank(); }
  [[nodiscard]] index all_images() const { return images() * context.communicator.size(); }

  // The crops of group `group` (count*images x channels*size*size): crop 1 of all images, then crop 2.
  template <std::size_t group = 0>
  [[nodiscard]] auto crops() const {
    return std::get<group>(batch_.crops);
  }
  // The labels (images).
  [[nodiscard]] const int* labels() const {
    static_assert(Reads::labels, "tessera: an objective that asks for labels names data::Labels in its Reads");
    return batch_.labels;
  }

  // Trained network number `which`: its tensors p, and their gradients g, which the step must assign.
  template <std::size_t which = 0>
  [[nodiscard]] auto trained() const {
    using Online = typename Networks::Online;
    const auto p = bind<Online>(state_.online, state_.online_statistics);
    const auto g = bind<Online>(state_.gradient, nullptr);
    return Bound{std::get<which>(p), std::get<which>(g)};
  }
  // The tensors of the moving average number `which`.
  template <std::size_t which = 0>
  [[nodiscard]] auto average() const {
    using Model = typename std::tuple_element_t<which, typename Networks::AverageSets>::Model;
    return bind<Model>(state_.averages[which], state_.average_statistics[which]);
  }
  // The tensors of the frozen network number `which`.
  template <std::size_t which = 0>
  [[nodiscard]] auto frozen() const {
    using Model = typename std::tuple_element_t<which, typename Networks::FrozenSets>::Model;
    return bind<Model>(state_.frozen[which], state_.frozen_statistics[which]);
  }
  // The values of the buffer number `which`.
  template <std::size_t which = 0>
  [[nodiscard]] Accumulator<Scalar>* buffer() const {
    return state_.buffers[which];
  }

  // The step calls this when all gradients of trained network number `which` are final, so that they are summed over
  // the ranks while the step goes on. Without the call, they and those of the networks in front are summed at the end
  // of the step.
  template <std::size_t which = 0>
  void gradients_final() {
    context.gradients_final(state_.gradient + Networks::starts[which]);
  }

  // average <- m average + (1 - m) trained, for the parameters, not for BatchNorm's statistics (docs/method.md, 7.3).
  // With ZeRO 1 each rank computes its part and gathers the others.
  template <std::size_t which = 0>
  void move_average(const double* m) {
    using Model = typename std::tuple_element_t<which, typename Networks::AverageSets>::Model;
    const Accumulator<Scalar>* const from = state_.online;
    const Parameter<Scalar> to = state_.averages[which];
    context.over_parameters(Layout<Model>::parameters, to, [&](index first, index size) {
      moving_average(context.backend, size, m, from + first, to + first);
    });
  }

  // The value of a setting in this step, in memory of the backend.
  [[nodiscard]] const double* value(Schedule Settings::*member) const {
    return values_ == nullptr ? nullptr : values_ + place_of(member);
  }

  // The loss, which the step must assign: this rank's part of it, so that the sum over the ranks is the loss of the
  // batch of all ranks.
  [[nodiscard]] double* loss() const { return loss_; }

  // Seed and number of the step. Random(seed, purpose, step, image of the batch of all ranks) gives the same numbers
  // for any number of ranks and any backend.
  [[nodiscard]] const StepNumber* number() const { return number_; }

  // Uninitialised activations (rows x columns), valid until the enclosing frame() ends.
  template <int columns, class Element = Scalar>
  [[nodiscard]] Rows<Element, columns> take(index rows) {
    return context.template take<columns, Element>(rows);
  }
  [[nodiscard]] auto frame() { return context.frame(); }

  // Starts an all_gather beside the backend's work. `all` has equally many rows of every rank, in the order of ranks;
  // this rank's are in place, the others' after join().
  template <class Element, int columns>
  void start_gathering(Rows<Element, columns> all) {
    if constexpr (Context::shared) {
      const auto parts = context.exchange->equal_parts(all.size() / context.communicator.size());
      context.exchange->beside(
          [all, parts](auto& lane, auto& communicator) { communicator.all_gather(lane, all.data, parts); });
    }
  }
  void join() {
    if constexpr (Context::shared) context.exchange->join();
  }

 private:
  data::Batch<Scalar, Reads> batch_;
  State<Scalar, Networks> state_;
  const double* values_;
  const StepNumber* number_;
  double* loss_;
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
