// Multi-head self-attention: an attention policy between two linear maps.
#pragma once

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace attention {

// softmax(q k^T / sqrt(width of a head)) v (docs/method.md, 2.3). Saves one number for each query and head; backward
// computes the attention weights again.
struct SoftmaxAttention {
  template <class Scalar, int tokens, int heads>
  struct Saved {
    Rows<Accumulator<Scalar>, tokens> log_sums;  // images*heads x tokens: log sum exp of a query's scores
  };

  // Assigns out (images*tokens x width). qkv (images*tokens x 3 width) has the columns q, k, v, each with its heads
  // side by side.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context& context, Rows<const Scalar, 3 * width> qkv,
                                              Rows<Scalar, width> out) {
    const Saved<Scalar, tokens, heads> saved{
        context.template take<tokens, Accumulator<Scalar>>(qkv.rows / tokens * heads)};
    attention_forward<tokens, heads>(context.backend, qkv, out, saved.log_sums);
    return saved;
  }

  // Assigns d_qkv. out is the result of forward.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context& context, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width> out,
                       const Saved<Scalar, tokens, heads>& saved, Rows<const Scalar, width> d_out,
                       Rows<Scalar, 3 * width> d_qkv) {
    attention_backward<tokens, heads>(context.backend, qkv, out,
                                      Rows<const Accumulator<Scalar>, tokens>(saved.log_sums), d_out, d_qkv);
  }

  // Assigns the attention weights softmax(q k^T / sqrt(width of a head)), images*heads*tokens x tokens.
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

// The tensors of Attention, which depend neither on the number of tokens nor on the number of heads.
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

// Linear map to q, k and v; Policy; output projection. x and y are images*tokens x width (docs/method.md, 2.3).
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

  // Assigns g and dx, the gradient through attention alone; the caller adds that of the residual.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
    const auto frame = context.frame();
    const auto d_out = context.template take<width>(x.rows);
    Proj::backward(context, p.proj, g.proj, Rows<const Scalar, width>(saved.out), Nothing{}, dy, d_out);
    mix_backward(context, p, g, x, saved, Rows<const Scalar, width>(d_out), dx);
  }

  // forward without the output projection: its input is saved.out.
  template <class Context, class Scalar>
  static Saved<Scalar> mix(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x) {
    Saved<Scalar> saved{context.template take<3 * width>(x.rows), context.template take<width>(x.rows), {}};
    Qkv::forward(context, p.qkv, x, saved.qkv);
    saved.policy =
        Policy::template forward<tokens, heads>(context, Rows<const Scalar, 3 * width>(saved.qkv), saved.out);
    return saved;
  }

  // The backward pass of mix: assigns g.qkv and dx.
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
