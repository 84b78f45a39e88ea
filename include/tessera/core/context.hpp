// What a layer runs in: a backend, a communicator, and whether statistics are being taken.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/memory.hpp"

namespace tessera::inline TESSERA_ABI {

// train: BatchNorm normalises with the statistics of its batch and updates its running ones. evaluate: with the
// running.
enum class Mode { train, evaluate };

// Passed by reference through a step. `views` tells BatchNorm into how many equal groups the rows fall, one for each
// augmented view: the views travel through the network stacked in one batch, yet each is a BatchNorm batch of its own.
template <class Backend_, class Communicator_>
struct Context {
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Scalar = typename Backend::Scalar;

  Backend& backend;
  Communicator& communicator;
  Mode mode = Mode::train;
  int views = 1;
  bool frozen_gradients = false;  // also compute the gradients of frozen parameters, to look at them (spec 7.1)

  // What is taken until the frame's end goes back to the arena then.
  [[nodiscard]] auto frame() { return typename Backend::Arena::Frame(backend.arena()); }

  template <int columns, class Element = Scalar>
  [[nodiscard]] Rows<Element, columns> take(index rows) {
    return {backend.arena().template take<Element>(rows * columns), rows};
  }
};

}  // namespace tessera::inline TESSERA_ABI
