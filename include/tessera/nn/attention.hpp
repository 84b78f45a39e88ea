// Multi-head self-attention: a policy between two linear maps.
#pragma once

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace attention {

// softmax(q k^T / sqrt(head width)) v, docs/method.md, 2.3. Keeps one number per query and head; the weights are
// computed again in backward.
struct SoftmaxAttention {
  template <class Scalar, int tokens, int heads>
  struct Saved {
    Rows<Accumulator<Scalar>, tokens> log_sums;  // images*heads rows
  };

  // out (images*tokens x width) from qkv (images*tokens x 3 width): q, k, v, each with its heads side by side.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context& context, Rows<const Scalar, 3 * width> qkv,
                                              Rows<Scalar, width> out) {
    const Saved<Scalar, tokens, heads> saved{
        context.template take<tokens, Accumulator<Scalar>>(qkv.rows / tokens * heads)};
    attention_forward<tokens, heads>(context.backend, qkv, out, saved.log_sums);
    return saved;
  }

  // Assigns d_qkv. out is what forward gave.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context& context, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width> out,
                       const Saved<Scalar, tokens, heads>& saved, Rows<const Scalar, width> d_out,
                       Rows<Scalar, 3 * width> d_qkv) {
    attention_backward<tokens, heads>(context.backend, qkv, out,
                                      Rows<const Accumulator<Scalar>, tokens>(saved.log_sums), d_out, d_qkv);
  }

  // The softmax itself (images*heads*tokens x tokens), for drawing.
  template <int tokens, int heads, class Context, class Scalar, int columns>
  static void weights(Context& context, Rows<const Scalar, columns> qkv, Rows<Scalar, tokens> weights) {
    attention_weights<tokens, heads, columns / 3>(context.backend, qkv, weights);
  }
};

}  // namespace attention
}  // namespace TESSERA_ABI
}  // namespace tessera

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The tensors of Attention: they depend neither on the number of tokens nor on that of heads.
template <int width>
struct AttentionTensors {
  using Qkv = Linear<width, 3 * width, true, XavierUniform<3>>;
  using Proj = Linear<width, width>;

  template <class Leaf>
  struct Parameters {
    typename Qkv::template Parameters<Leaf> qkv;
    typename Proj::template Parameters<Leaf> proj;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.qkv = Qkv::declare(visit, name / "qkv");
    p.proj = Proj::declare(visit, name / "proj");
    return p;
  }
};

// qkv projection, Policy, output projection with the residual added. Rows of tokens: images * tokens x width.
template <int width_, int tokens_, int heads_, class Policy_ = attention::SoftmaxAttention>
struct Attention : AttentionTensors<width_> {
  static_assert(heads_ > 0 && width_ % heads_ == 0,
                "tessera: the number of heads must divide the width of the attention");
  static_assert(AttentionPolicy<Policy_>,
                "tessera: an attention policy needs Saved<Scalar, tokens, heads>, forward and backward; "
                "docs/writing-a-policy.md shows one");
  static constexpr int width = width_, tokens = tokens_, heads = heads_, in = width, out = width;
  using Policy = Policy_;
  using Tensors = AttentionTensors<width>;
  using Tensors::declare;
  using typename Tensors::Proj, typename Tensors::Qkv;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, 3 * width> qkv;
    Rows<Scalar, width> out;
    typename Policy::template Saved<Scalar, tokens, heads> policy;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  // y = residual + attention(x); residual may be absent.
  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<const Scalar, width> residual, Rows<Scalar, width> y) {
    const Saved<Scalar> saved = mix(context, p, x);
    Proj::forward(context, p.proj, Rows<const Scalar, width>(saved.out), residual, y);
    return saved;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y) {
    return forward(context, p, x, Rows<const Scalar, width>{}, y);
  }

  // dx = gradient through attention alone; the caller adds the residual's.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
    const auto frame = context.frame();
    const auto d_out = context.template take<width>(x.rows);
    Proj::backward(context, p.proj, g.proj, Rows<const Scalar, width>(saved.out), Nothing{}, dy, d_out);
    mix_backward(context, p, g, x, saved, Rows<const Scalar, width>(d_out), dx);
  }

  // What comes before the output projection: saved.out, in which tokens have seen each other.
  template <class Context, class Scalar>
  static Saved<Scalar> mix(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x) {
    Saved<Scalar> saved{context.template take<3 * width>(x.rows), context.template take<width>(x.rows), {}};
    Qkv::forward(context, p.qkv, x, saved.qkv);
    saved.policy =
        Policy::template forward<tokens, heads>(context, Rows<const Scalar, 3 * width>(saved.qkv), saved.out);
    return saved;
  }

  // The gradient of mix.
  template <class Context, class Scalar>
  static void mix_backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                           const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                           const Saved<Scalar>& saved, Rows<const Scalar, width> d_out, Rows<Scalar, width> dx) {
    const auto frame = context.frame();
    const auto d_qkv = context.template take<3 * width>(x.rows);
    Policy::template backward<tokens, heads>(context, Rows<const Scalar, 3 * width>(saved.qkv),
                                             Rows<const Scalar, width>(saved.out), saved.policy, d_out, d_qkv);
    Qkv::backward(context, p.qkv, g.qkv, x, Nothing{}, Rows<const Scalar, 3 * width>(d_qkv), dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
