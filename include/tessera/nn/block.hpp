// The pre-norm transformer block, and its form for the class token alone.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/attention.hpp"
#include "tessera/nn/drop_path.hpp"
#include "tessera/nn/layer_norm.hpp"
#include "tessera/nn/mlp.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace nn {

// The tensors of Block.
template <class AttentionTensors, class Mlp, template <int> class MlpNorm = LayerNorm>
struct BlockTensors {
  using Norm1 = LayerNorm<Mlp::width>;
  using Norm2 = MlpNorm<Mlp::width>;

  template <class Leaf>
  struct Parameters {
    typename Norm1::template Parameters<Leaf> norm1;
    typename AttentionTensors::template Parameters<Leaf> attn;
    typename Norm2::template Parameters<Leaf> norm2;
    typename Mlp::template Parameters<Leaf> mlp;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.norm1 = Norm1::declare(visit, name / "norm1");
    p.attn = AttentionTensors::declare(visit, name / "attn");
    p.norm2 = Norm2::declare(visit, name / "norm2");
    p.mlp = Mlp::declare(visit, name / "mlp");
    return p;
  }
};

namespace detail {

// y = residual + scale * y, with one scale for each image, if drop path is on. Without it y already has the residual.
template <int tokens, class Context, class Scalar, int width>
void add_branch(Context& context, bool dropping, const Accumulator<Scalar>* scales, Rows<const Scalar, width> residual,
                Rows<Scalar, width> y) {
  if (dropping) scale_branch<tokens>(context.backend, Rows<const Scalar, width>(y), scales, residual, y);
}

// The gradient of the branch in y = residual + scale * branch: dy, or with drop path scale * dy in the arena.
template <int tokens, class Context, class Scalar, int width>
[[nodiscard]] Rows<const Scalar, width> branch_gradient(Context& context, bool dropping,
                                                        const Accumulator<Scalar>* scales,
                                                        Rows<const Scalar, width> dy) {
  if (!dropping) return dy;
  const auto d_branch = context.template take<width>(dy.rows);
  scale_branch<tokens>(context.backend, dy, scales, Rows<const Scalar, width>{}, d_branch);
  return d_branch;
}

}  // namespace detail

// middle = x + attention(norm1(x)); y = middle + mlp(norm2(middle)) (docs/method.md, 2.2). x and y are images*tokens x
// width. MlpNorm is LayerNorm or, in ViT-BN, BatchNorm (2.4). With drop path each branch has its scales (9.4).
template <class Attention_, class Mlp_, template <int> class MlpNorm = LayerNorm>
struct Block : BlockTensors<typename Attention_::Tensors, Mlp_, MlpNorm> {
  static_assert(Attention_::width == Mlp_::width, "tessera: attention and MLP of a block must have the same width");
  using Attention = Attention_;
  using Mlp = Mlp_;
  static constexpr int width = Attention::width, in = width, out = width;
  using Tensors = BlockTensors<typename Attention::Tensors, Mlp, MlpNorm>;
  using Tensors::declare;
  using typename Tensors::Norm1, typename Tensors::Norm2;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> normed1, middle, normed2;
    typename Norm1::template Saved<Scalar> norm1;
    typename Attention::template Saved<Scalar> attn;
    typename Norm2::template Saved<Scalar> norm2;
    typename Mlp::template Saved<Scalar> mlp;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y, BranchScales<Scalar> scales = {}) {
    using Input = Rows<const Scalar, width>;
    Saved<Scalar> saved = attend(context, p, x, scales);
    saved.mlp = Mlp::forward(context, p.mlp, Input(saved.normed2), scales.on ? Input{} : Input(saved.middle), y);
    detail::add_branch<Attention::tokens>(context, scales.on, scales.mlp, Input(saved.middle), y);
    return saved;
  }

  // Computes what forward saves, but not y.
  template <class Context, class Scalar>
  static Saved<Scalar> save(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                            BranchScales<Scalar> scales = {}) {
    Saved<Scalar> saved = attend(context, p, x, scales);
    saved.mlp = Mlp::save(context, p.mlp, Rows<const Scalar, width>(saved.normed2));
    return saved;
  }

  // Assigns g and dx; dx may be dy.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx,
                       BranchScales<Scalar> scales = {}) {
    using Input = Rows<const Scalar, width>;
    constexpr int tokens = Attention::tokens;
    const auto frame = context.frame();
    const auto d_middle = context.template take<width>(x.rows);
    const auto d_normed = context.template take<width>(x.rows);
    {
      const auto branch_frame = context.frame();
      Mlp::backward(context, p.mlp, g.mlp, Input(saved.normed2), saved.mlp,
                    detail::branch_gradient<tokens>(context, scales.on, scales.mlp, dy), d_normed);
    }
    Norm2::backward(context, p.norm2, g.norm2, Input(saved.middle), saved.norm2, Input(d_normed), dy, d_middle);
    {
      const auto branch_frame = context.frame();
      Attention::backward(context, p.attn, g.attn, Input(saved.normed1), saved.attn,
                          detail::branch_gradient<tokens>(context, scales.on, scales.attention, Input(d_middle)),
                          d_normed);
    }
    Norm1::backward(context, p.norm1, g.norm1, x, saved.norm1, Input(d_normed), Input(d_middle), dx);
  }

 private:
  // Everything in front of the MLP.
  template <class Context, class Scalar>
  static Saved<Scalar> attend(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                              BranchScales<Scalar> scales) {
    using Input = Rows<const Scalar, width>;
    Saved<Scalar> saved;
    saved.normed1 = context.template take<width>(x.rows);
    saved.middle = context.template take<width>(x.rows);
    saved.normed2 = context.template take<width>(x.rows);
    saved.norm1 = Norm1::forward(context, p.norm1, x, saved.normed1);
    saved.attn = Attention::forward(context, p.attn, Input(saved.normed1), scales.on ? Input{} : x, saved.middle);
    detail::add_branch<Attention::tokens>(context, scales.on, scales.attention, x, saved.middle);
    saved.norm2 = Norm2::forward(context, p.norm2, Input(saved.middle), saved.normed2);
    return saved;
  }
};

// Block_ that saves nothing for backward but its input (activation checkpointing). Backward computes the saved
// activations again, which costs about two thirds of forward's multiply-adds; the gradients are bitwise the same.
template <class Block_>
struct RecomputedBlock : Block_ {
  using Block = Block_;
  static constexpr int width = Block::width;
  static_assert(Block::Norm2::each_row_alone,
                "tessera: a block with BatchNorm cannot be recomputed: its statistics would be counted twice");
  template <class Leaf>
  using Parameters = typename Block::template Parameters<Leaf>;
  template <class Scalar>
  using Saved = Nothing;

  template <class Context, class Scalar>
  static Nothing forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                         Rows<Scalar, width> y, BranchScales<Scalar> scales = {}) {
    const auto frame = context.frame();
    Block::forward(context, p, x, y, scales);
    return {};
  }

  // Assigns g and dx; dx may be dy.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x, const Nothing&,
                       Rows<const Scalar, width> dy, Rows<Scalar, width> dx, BranchScales<Scalar> scales = {}) {
    const auto frame = context.frame();
    Block::backward(context, p, g, x, Block::save(context, p, x, scales), dy, dx, scales);
  }
};

// The last block of an encoder whose features are the class token, token 0 of an image (docs/method.md, 2.3). Only
// attention mixes tokens, so the output projection, norm2 and the MLP run on the class tokens alone: the tensors,
// features and gradients are those of Block, for about a quarter of its multiply-adds. x is images*tokens x width, y
// images x width.
template <class Block>
struct ClassTokenBlock {
  using Attention = typename Block::Attention;
  using Mlp = typename Block::Mlp;
  using Norm1 = typename Block::Norm1;
  using Norm2 = typename Block::Norm2;
  static_assert(Norm2::each_row_alone,
                "tessera: a norm that takes statistics over all tokens needs all of them, not the class token alone");
  static constexpr int width = Block::width, in = width, out = width, tokens = Attention::tokens;

  template <class Leaf>
  using Parameters = typename Block::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> normed1, mixed, middle, normed2;
    typename Norm1::template Saved<Scalar> norm1;
    typename Attention::template Saved<Scalar> attn;
    typename Norm2::template Saved<Scalar> norm2;
    typename Mlp::template Saved<Scalar> mlp;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows / tokens; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    return Block::declare(visit, name);
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y, BranchScales<Scalar> scales = {}) {
    using Input = Rows<const Scalar, width>;
    Saved<Scalar> saved;
    saved.normed1 = context.template take<width>(x.rows);
    saved.mixed = context.template take<width>(y.rows);
    saved.middle = context.template take<width>(y.rows);
    saved.normed2 = context.template take<width>(y.rows);
    saved.norm1 = Norm1::forward(context, p.norm1, x, saved.normed1);
    saved.attn = Attention::mix(context, p.attn, Input(saved.normed1));
    {
      const auto frame = context.frame();
      const auto residual = context.template take<width>(y.rows);
      take_token<tokens>(context.backend, x, 0, residual);
      take_token<tokens>(context.backend, Input(saved.attn.out), 0, saved.mixed);
      Attention::Proj::forward(context, p.attn.proj, Input(saved.mixed), scales.on ? Input{} : Input(residual),
                               saved.middle);
      detail::add_branch<1>(context, scales.on, scales.attention, Input(residual), saved.middle);
    }
    saved.norm2 = Norm2::forward(context, p.norm2, Input(saved.middle), saved.normed2);
    saved.mlp = Mlp::forward(context, p.mlp, Input(saved.normed2), scales.on ? Input{} : Input(saved.middle), y);
    detail::add_branch<1>(context, scales.on, scales.mlp, Input(saved.middle), y);
    return saved;
  }

  // Assigns g and dx; dx must not be dy.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx,
                       BranchScales<Scalar> scales = {}) {
    using Input = Rows<const Scalar, width>;
    const auto frame = context.frame();
    const auto d_middle = context.template take<width>(dy.rows);
    const auto d_token = context.template take<width>(dy.rows);
    const auto d_mixed = context.template take<width>(x.rows);
    const auto d_normed = context.template take<width>(x.rows);
    {
      const auto branch_frame = context.frame();
      Mlp::backward(context, p.mlp, g.mlp, Input(saved.normed2), saved.mlp,
                    detail::branch_gradient<1>(context, scales.on, scales.mlp, dy), d_token);
    }
    Norm2::backward(context, p.norm2, g.norm2, Input(saved.middle), saved.norm2, Input(d_token), dy, d_middle);
    {
      const auto branch_frame = context.frame();
      Attention::Proj::backward(context, p.attn.proj, g.attn.proj, Input(saved.mixed), Nothing{},
                                detail::branch_gradient<1>(context, scales.on, scales.attention, Input(d_middle)),
                                d_token);
    }
    take_token_backward<tokens>(context.backend, Input(d_token), 0, d_mixed);
    Attention::mix_backward(context, p.attn, g.attn, Input(saved.normed1), saved.attn, Input(d_mixed), d_normed);
    take_token_backward<tokens>(context.backend, Input(d_middle), 0, dx);
    Norm1::backward(context, p.norm1, g.norm1, x, saved.norm1, Input(d_normed), Input(dx), dx);
  }
};

}  // namespace nn
}  // namespace TESSERA_ABI
}  // namespace tessera
