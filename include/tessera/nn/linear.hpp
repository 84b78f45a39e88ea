// Linear: y = x W^T + b.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/init.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// Saved of a layer whose backward needs its input alone.
struct Nothing {};

// y (rows x out) = x (rows x in) weight^T + bias. weight is (out, in), bias (out), as in PyTorch.
template <int in_, int out_, bool has_bias = true, class Init = XavierUniform<>>
struct Linear {
  static_assert(in_ > 0 && out_ > 0, "tessera: Linear needs at least one input and one output feature");
  static constexpr int in = in_, out = out_;

  template <class Leaf>
  struct Parameters {
    Leaf weight{}, bias{};
  };
  template <class Scalar>
  using Saved = Nothing;

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.weight = visit(name / "weight", Shape(out, in), Role::trained, Init::weight(in, out));
    if constexpr (has_bias) p.bias = visit(name / "bias", Shape(out), Role::trained, Init::bias(in));
    return p;
  }

  // y = x weight^T + bias + residual; residual may be absent.
  template <class Context, class Scalar>
  static Nothing forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                         Rows<const Scalar, out> residual, Rows<Scalar, out> y) {
    linear_forward(context.backend, x, p.weight, p.bias, residual, y);
    return {};
  }

  template <class Context, class Scalar>
  static Nothing forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                         Rows<Scalar, out> y) {
    return forward(context, p, x, Rows<const Scalar, out>{}, y);
  }

  // Assigns the gradients g and, if dx is wanted, dx.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Nothing&,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    linear_weight_gradient(context.backend, x, dy, g.weight, g.bias);
    if (dx.wanted()) linear_input_gradient(context.backend, dy, p.weight, dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
