// Two-dimensional convolution of square images, channels last: a row is a pixel.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// x (images*size^2 x in) to y (images*out_size^2 x out). weight is (out, in, kernel, kernel), bias (out).
template <int in_, int out_, int size, int kernel, int stride, int padding, bool has_bias, class Init = FanInUniform>
struct Conv2d {
  static constexpr int in = in_, out = out_, patch = in * kernel * kernel;
  static constexpr int out_size = (size + 2 * padding - kernel) / stride + 1;
  static_assert(out_size > 0, "tessera: the image is smaller than the convolution's kernel");
  using Product = Linear<patch, out, has_bias, Init>;

  template <class Leaf>
  using Parameters = typename Product::template Parameters<Leaf>;
  template <class Scalar>
  using Saved = Nothing;

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows / (size * size) * (out_size * out_size); }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.weight = visit(name / "weight", Shape(out, in, kernel, kernel), Role::trained, Init::weight(patch, out));
    if constexpr (has_bias) p.bias = visit(name / "bias", Shape(out), Role::trained, Init::bias(patch));
    return p;
  }

  template <class Context, class Scalar>
  static Nothing forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                         Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto patches = context.template take<patch>(y.rows);
    unfold<in, size, kernel, stride, padding>(context.backend, x, patches);
    return Product::forward(context, p, Rows<const Scalar, patch>(patches), y);
  }

  // Assigns g and, if dx is wanted, dx. Unfolds x again: saving its patches would take kernel^2 / stride^2 times the
  // memory of x.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Nothing&,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    const auto frame = context.frame();
    const auto patches = context.template take<patch>(dy.rows);
    unfold<in, size, kernel, stride, padding>(context.backend, x, patches);
    linear_weight_gradient(context.backend, Rows<const Scalar, patch>(patches), dy, g.weight, g.bias);
    if (!dx.wanted()) return;
    linear_input_gradient(context.backend, dy, p.weight, patches);
    fold<in, size, kernel, stride, padding>(context.backend, Rows<const Scalar, patch>(patches), dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
