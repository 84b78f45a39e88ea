// Batch normalisation.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// Normalises each feature over the rows of one view on all ranks (docs/method.md, 2.8): epsilon = 1 / inverse_epsilon,
// running <- 0.9 running + 0.1 batch. affine = false: no weight and bias.
template <int features, bool affine = true, int inverse_epsilon = 100000>
struct BatchNorm {
  static constexpr int in = features, out = features;
  static constexpr bool each_row_alone = false;
  static constexpr double epsilon = 1.0 / inverse_epsilon, momentum = 0.1;

  template <class Leaf>
  struct Parameters {
    Leaf weight{}, bias{}, running_mean{}, running_var{}, num_batches_tracked{};
  };
  template <class Scalar>
  struct Saved {
    // A row for each view: the means, then 1 / sqrt(variance + epsilon).
    Rows<Accumulator<Scalar>, 2 * features> statistics;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    if constexpr (affine) {
      p.weight = visit(name / "weight", Shape(features), Role::trained, Initial::constant(1));
      p.bias = visit(name / "bias", Shape(features), Role::trained, Initial::constant(0));
    }
    p.running_mean = visit(name / "running_mean", Shape(features), Role::statistic, Initial::constant(0));
    p.running_var = visit(name / "running_var", Shape(features), Role::statistic, Initial::constant(1));
    p.num_batches_tracked = visit(name / "num_batches_tracked", Shape(), Role::statistic, Initial::constant(0));
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                               Rows<Scalar, out> y) {
    const Saved<Scalar> saved{context.template take<2 * features, Accumulator<Scalar>>(context.views)};
    if (context.mode == Mode::evaluate)
      batch_norm_evaluate(context.backend, x, p.weight, p.bias, epsilon, p.running_mean, p.running_var, y);
    else
      batch_norm_forward(context, x, p.weight, p.bias, epsilon, momentum, p.running_mean, p.running_var,
                         p.num_batches_tracked, saved.statistics, y);
    return saved;
  }

  // Assigns g and dx = residual + gradient of x; residual may be absent.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>& saved,
                       Rows<const Scalar, out> dy, Rows<const Scalar, in> residual, Rows<Scalar, in> dx) {
    batch_norm_backward(context, x, p.weight, Rows<const Accumulator<Scalar>, 2 * features>(saved.statistics), dy,
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
