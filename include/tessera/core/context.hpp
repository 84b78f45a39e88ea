// What a layer runs in: a backend, a communicator, and whether statistics are being taken.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// train: BatchNorm normalises with the statistics of its batch and updates its running ones. evaluate: with the
// running.
enum class Mode { train, evaluate };

// Stands where ranks may share the work of a step (comm/exchange.hpp): nothing is shared.
struct NoExchange {
  static constexpr bool shared = false;
};

// Passed by reference through a step. `views` tells BatchNorm into how many equal groups the rows fall, one for each
// augmented view: the views travel through the network stacked in one batch, yet each is a BatchNorm batch of its own.
template <class Backend_, class Communicator_, class Exchange_ = NoExchange>
struct Context {
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Exchange = Exchange_;
  static constexpr bool shared = Exchange::shared;
  using Scalar = typename Backend::Scalar;

  Backend& backend;
  Communicator& communicator;
  Mode mode = Mode::train;
  int views = 1;
  // Backward also computes the gradients of frozen parameters, to look at them (docs/method.md, 7.6).
  bool frozen_gradients = false;

  Exchange* exchange = nullptr;  // there if ranks share the step

  // Drop path (docs/method.md, 9.4): forward and backward scale the branches of transformer blocks. branch_scales
  // (2 * depth x images, in memory of the backend; null while planning): for block i row 2i for its attention and row
  // 2i + 1 for its MLP, each image's factor 0 or 1 / (1 - rate).
  bool drop_path = false;
  const Accumulator<Scalar>* branch_scales = nullptr;

  // Backward tells, as it goes, that the gradients from this one to the end of its network's are final.
  void gradients_final(const Accumulator<Scalar>* from) {
    if constexpr (shared) exchange->final_from(from);
  }
  // Passes body(first, size) over flat buffers of `count` elements, of which the pass assigns `values`: over all of
  // them, or over this rank's parts, and the other ranks' are fetched.
  template <class Body>
  void over_parameters(index count, Parameter<Scalar> values, Body&& body) {
    if constexpr (shared) {
      exchange->for_parts(count, body);
      exchange->gather(count, values);
    } else {
      body(index{0}, count);
    }
  }

  // What is taken until the frame's end goes back to the arena then.
  [[nodiscard]] auto frame() { return typename Backend::Arena::Frame(backend.arena()); }

  template <int columns, class Element = Scalar>
  [[nodiscard]] Rows<Element, columns> take(index rows) {
    return {backend.arena().template take<Element>(rows * columns), rows};
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
