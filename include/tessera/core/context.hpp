// The context of a step, which every layer is given: backend, communicator, mode.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The mode of BatchNorm. train: with the statistics of the batch, and it updates the running statistics. evaluate:
// with the running statistics (docs/method.md, 2.8).
enum class Mode { train, evaluate };

// The exchange of a context without data parallelism (comm/data_parallel.hpp): one rank updates all parameters.
struct NoExchange {
  static constexpr bool shared = false;
};

// Passed by reference through a step. The rows of a batch are `views` groups of equal size, one for each view of the
// images; BatchNorm takes the statistics of each group separately (docs/method.md, 2.8).
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
  // Backward also computes the gradients of frozen parameters, for reports of their norms (docs/method.md, 7.6).
  bool frozen_gradients = false;

  Exchange* exchange = nullptr;  // not null if `shared`

  // Drop path (docs/method.md, 9.4): if true, forward and backward multiply the residual branches of transformer blocks
  // by branch_scales (2 * depth x images, in memory of the backend; null while planning). Row 2i belongs to the
  // attention of block i, row 2i + 1 to its MLP; a value is 0 or 1 / (1 - r_i).
  bool drop_path = false;
  const Accumulator<Scalar>* branch_scales = nullptr;

  // Backward calls this when the gradients from `from` to the end of its network's part of the flat buffer are final,
  // so that data parallelism can start to sum them over the ranks.
  void gradients_final(const Accumulator<Scalar>* from) {
    if constexpr (shared) exchange->final_from(from);
  }
  // Updates the first `count` elements of flat buffers: calls body(first, size) for every range that this rank updates
  // (the whole without ZeRO 1). body assigns `values` in that range; then the other ranks' values are gathered.
  template <class Body>
  void over_parameters(index count, Parameter<Scalar> values, Body&& body) {
    if constexpr (shared) {
      exchange->for_parts(count, body);
      exchange->gather(count, values);
    } else {
      body(index{0}, count);
    }
  }

  // A frame of the arena: at the end of its scope, everything taken since goes back.
  [[nodiscard]] auto frame() { return typename Backend::Arena::Frame(backend.arena()); }

  // Uninitialised activations (rows x columns) from the arena; data is null while planning.
  template <int columns, class Element = Scalar>
  [[nodiscard]] Rows<Element, columns> take(index rows) {
    return {backend.arena().template take<Element>(rows * columns), rows};
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
