// The pre-norm transformer block.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/attention.hpp"
#include "tessera/nn/layer_norm.hpp"
#include "tessera/nn/mlp.hpp"

namespace tessera::inline TESSERA_ABI::nn {

// x2 = x + attention(norm1(x)); y = x2 + mlp(norm2(x2)). MlpNorm is LayerNorm or, in ViT-BN, BatchNorm (spec 2.5).
template <class Attention_, class Mlp_, template <int> class MlpNorm = LayerNorm>
struct Block {
  static_assert(Attention_::width == Mlp_::width, "tessera: attention and MLP of a block must have the same width");
  using Attention = Attention_;
  using Mlp = Mlp_;
  static constexpr int width = Attention::width, in = width, out = width;
  using Norm1 = LayerNorm<width>;
  using Norm2 = MlpNorm<width>;

  template <class Leaf>
  struct Parameters {
    typename Norm1::template Parameters<Leaf> norm1;
    typename Attention::template Parameters<Leaf> attn;
    typename Norm2::template Parameters<Leaf> norm2;
    typename Mlp::template Parameters<Leaf> mlp;
  };
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> normed1, middle, normed2;
    typename Norm1::template Saved<Scalar> norm1;
    typename Attention::template Saved<Scalar> attn;
    typename Norm2::template Saved<Scalar> norm2;
    typename Mlp::template Saved<Scalar> mlp;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.norm1 = Norm1::declare(visit, name / "norm1");
    p.attn = Attention::declare(visit, name / "attn");
    p.norm2 = Norm2::declare(visit, name / "norm2");
    p.mlp = Mlp::declare(visit, name / "mlp");
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Scalar*>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y) {
    Saved<Scalar> saved;
    saved.normed1 = context.template take<width>(x.rows);
    saved.middle = context.template take<width>(x.rows);
    saved.normed2 = context.template take<width>(x.rows);
    saved.norm1 = Norm1::forward(context, p.norm1, x, saved.normed1);
    saved.attn = Attention::forward(context, p.attn, Rows<const Scalar, width>(saved.normed1), x, saved.middle);
    const Rows<const Scalar, width> middle = saved.middle;
    saved.norm2 = Norm2::forward(context, p.norm2, middle, saved.normed2);
    saved.mlp = Mlp::forward(context, p.mlp, Rows<const Scalar, width>(saved.normed2), middle, y);
    return saved;
  }

  // dx may be dy.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Scalar*>& p, const Parameters<Scalar*>& g,
                       Rows<const Scalar, width> x, const Saved<Scalar>& saved, Rows<const Scalar, width> dy,
                       Rows<Scalar, width> dx) {
    using Input = Rows<const Scalar, width>;
    const auto frame = context.frame();
    const auto d_middle = context.template take<width>(x.rows);
    const auto d_normed = context.template take<width>(x.rows);
    Mlp::backward(context, p.mlp, g.mlp, Input(saved.normed2), saved.mlp, dy, d_normed);
    Norm2::backward(context, p.norm2, g.norm2, Input(saved.middle), saved.norm2, Input(d_normed), dy, d_middle);
    Attention::backward(context, p.attn, g.attn, Input(saved.normed1), saved.attn, Input(d_middle), d_normed);
    Norm1::backward(context, p.norm1, g.norm1, x, saved.norm1, Input(d_normed), Input(d_middle), dx);
  }
};

}  // namespace tessera::inline TESSERA_ABI::nn
