// The two-layer perceptron of a transformer block.
#pragma once

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/activation.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// y = fc2(Activation(fc1(x))), both with bias. x and y are rows x width (docs/method.md, 2.2).
template <int width_, int hidden_, class Activation = Gelu>
struct Mlp {
  static_assert(ActivationFunction<Activation>,
                "tessera: an activation needs value(x) and value_and_slope(x), for packs and scalars");
  static constexpr int width = width_, hidden = hidden_, in = width, out = width;
  using Fc1 = Linear<width, hidden>;
  using Fc2 = Linear<hidden, width>;

  template <class Leaf>
  struct Parameters {
    typename Fc1::template Parameters<Leaf> fc1;
    typename Fc2::template Parameters<Leaf> fc2;
  };
  template <class Scalar>
  struct Saved {
    Rows<Scalar, hidden> before;  // fc1(x); backward computes the activation again
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.fc1 = Fc1::declare(visit, name / "fc1");
    p.fc2 = Fc2::declare(visit, name / "fc2");
    return p;
  }

  // y = residual + mlp(x); residual may be absent.
  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<const Scalar, width> residual, Rows<Scalar, width> y) {
    const Saved<Scalar> saved{context.template take<hidden>(x.rows)};
    const auto frame = context.frame();
    const auto activated = context.template take<hidden>(x.rows);
    linear_activation_forward<Activation>(context.backend, x, p.fc1.weight, p.fc1.bias, saved.before, activated);
    Fc2::forward(context, p.fc2, Rows<const Scalar, hidden>(activated), residual, y);
    return saved;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y) {
    return forward(context, p, x, Rows<const Scalar, width>{}, y);
  }

  // Computes what forward saves, but not y.
  template <class Context, class Scalar>
  static Saved<Scalar> save(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x) {
    const Saved<Scalar> saved{context.template take<hidden>(x.rows)};
    Fc1::forward(context, p.fc1, x, saved.before);
    return saved;
  }

  // Assigns g and dx, the gradient through the perceptron alone; the caller adds that of the residual.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
    const auto frame = context.frame();
    const auto d_before = context.template take<hidden>(x.rows);
    const auto activated = context.template take<hidden>(x.rows);
    const Rows<const Scalar, hidden> d_hidden = d_before;
    linear_activation_gradient<Activation>(context.backend, dy, p.fc2.weight, Rows<const Scalar, hidden>(saved.before),
                                           d_before, activated, g.fc1.bias);
    linear_weight_gradient(context.backend, Rows<const Scalar, hidden>(activated), dy, g.fc2.weight, g.fc2.bias);
    linear_weight_gradient(context.backend, x, d_hidden, g.fc1.weight, static_cast<Accumulator<Scalar>*>(nullptr));
    if (dx.wanted()) linear_input_gradient(context.backend, d_hidden, p.fc1.weight, dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
