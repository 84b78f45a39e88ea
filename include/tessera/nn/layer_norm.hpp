// Layer normalisation.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// Normalises each row over its features, epsilon 1e-6 (docs/method.md, 2.2).
template <int features>
struct LayerNorm {
  static constexpr int in = features, out = features;
  static constexpr bool each_row_alone = true;
  static constexpr double epsilon = 1e-6;

  template <class Leaf>
  struct Parameters {
    Leaf weight{}, bias{};
  };
  template <class Scalar>
  struct Saved {
    Rows<Accumulator<Scalar>, 2> statistics;  // of each row: mean, 1 / sqrt(variance + epsilon)
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.weight = visit(name / "weight", Shape(features), Role::trained, Initial::constant(1));
    p.bias = visit(name / "bias", Shape(features), Role::trained, Initial::constant(0));
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                               Rows<Scalar, out> y) {
    const Saved<Scalar> saved{context.template take<2, Accumulator<Scalar>>(x.rows)};
    layer_norm_forward(context.backend, x, p.weight, p.bias, epsilon, saved.statistics, y);
    return saved;
  }

  // Assigns g and dx = residual + gradient of x; residual may be absent.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>& saved,
                       Rows<const Scalar, out> dy, Rows<const Scalar, in> residual, Rows<Scalar, in> dx) {
    layer_norm_backward(context.backend, x, p.weight, Rows<const Accumulator<Scalar>, 2>(saved.statistics), dy,
                        residual, dx, g.weight, g.bias);
  }
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>& saved,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    backward(context, p, g, x, saved, dy, Rows<const Scalar, in>{}, dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
