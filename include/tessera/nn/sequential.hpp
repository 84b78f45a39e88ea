// A sequence of layers.
#pragma once

#include <tuple>
#include <utility>

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/activation.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The activation Function as a layer.
template <class Function, int features>
struct Activation {
  static constexpr int in = features, out = features;
  template <class Leaf>
  struct Parameters {};
  template <class Scalar>
  using Saved = Nothing;

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit&, const Name&) {
    return Parameters<typename Visit::Leaf>{};
  }
  template <class Context, class Scalar>
  static Nothing forward(Context& context, const Parameters<Parameter<Scalar>>&, Rows<const Scalar, in> x,
                         Rows<Scalar, out> y) {
    activation_forward<Function>(context.backend, x, y);
    return {};
  }
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>&, const Parameters<Accumulator<Scalar>*>&,
                       Rows<const Scalar, in> x, const Nothing&, Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    activation_backward<Function>(context.backend, x, dy, dx);
  }
};

// y = last(...(second(first(x)))). Tensors are named by the number of their layer from 0, as in PyTorch's
// nn.Sequential. Saves the output of every layer for backward.
template <class... Layers>
struct Sequential {
  static_assert(
      (tessera::Layer<Layers> && ...),
      "tessera: Sequential takes layers: types with in, out, Parameters, Saved, out_rows(rows), declare, forward "
      "and backward; tessera/concepts.hpp shows the shortest one");

 private:
  using LayerTuple = std::tuple<Layers...>;
  static constexpr std::size_t count = sizeof...(Layers);
  template <std::size_t i>
  using Layer = std::tuple_element_t<i, LayerTuple>;

  template <std::size_t... i>
  static constexpr bool fits(std::index_sequence<i...>) {
    return ((Layer<i>::out == Layer<i + 1>::in) && ...);
  }
  static_assert(fits(std::make_index_sequence<count - 1>{}),
                "tessera: in Sequential every layer must take as many features as the one before it gives");

 public:
  static constexpr int in = Layer<0>::in, out = Layer<count - 1>::out;

  template <class Leaf>
  using Parameters = std::tuple<typename Layers::template Parameters<Leaf>...>;

  template <class Scalar>
  struct Saved {
    std::tuple<typename Layers::template Saved<Scalar>...> layers;
    std::tuple<Rows<Scalar, Layers::out>...> outputs;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) {
    ((rows = Layers::out_rows(rows)), ...);
    return rows;
  }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      ((std::get<i>(p) = Layer<i>::declare(visit, name / static_cast<int>(i))), ...);
    }
    (std::make_index_sequence<count>{});
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                               Rows<Scalar, out> y) {
    Saved<Scalar> saved;
    std::get<count - 1>(saved.outputs) = y;
    forward_from<0>(context, p, x, saved);
    return saved;
  }

  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>& saved,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    backward_to<count - 1>(context, p, g, x, saved, dy, dx);
  }

 private:
  template <std::size_t i, class Context, class Scalar>
  static void forward_from(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, Layer<i>::in> x,
                           Saved<Scalar>& saved) {
    auto& y = std::get<i>(saved.outputs);
    if constexpr (i + 1 < count) y = context.template take<Layer<i>::out>(Layer<i>::out_rows(x.rows));
    std::get<i>(saved.layers) = Layer<i>::forward(context, std::get<i>(p), x, y);
    if constexpr (i + 1 < count) forward_from<i + 1>(context, p, Rows<const Scalar, Layer<i>::out>(y), saved);
  }

  template <std::size_t i, class Context, class Scalar>
  static void backward_to(Context& context, const Parameters<Parameter<Scalar>>& p,
                          const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x,
                          const Saved<Scalar>& saved, Rows<const Scalar, Layer<i>::out> dy, Rows<Scalar, in> dx) {
    if constexpr (i == 0) {
      Layer<0>::backward(context, std::get<0>(p), std::get<0>(g), x, std::get<0>(saved.layers), dy, dx);
    } else {
      const auto frame = context.frame();
      const auto& input = std::get<i - 1>(saved.outputs);
      const auto d_input = context.template take<Layer<i>::in>(input.rows);
      Layer<i>::backward(context, std::get<i>(p), std::get<i>(g), Rows<const Scalar, Layer<i>::in>(input),
                         std::get<i>(saved.layers), dy, d_input);
      backward_to<i - 1>(context, p, g, x, saved, Rows<const Scalar, Layer<i>::in>(d_input), dx);
    }
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
