// The trunk of a transformer, from tokens to tokens: its blocks and the final norm.
#pragma once

#include <array>
#include <cstddef>
#include <utility>

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/models/vit/policies.hpp"
#include "tessera/nn/attention.hpp"
#include "tessera/nn/block.hpp"
#include "tessera/nn/drop_path.hpp"
#include "tessera/nn/layer_norm.hpp"
#include "tessera/nn/mlp.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace vit {

// The tensors of Trunk, which do not depend on the number of tokens.
template <int width, int depth, int mlp_ratio, class Policies, bool final_norm>
struct TrunkTensors {
  using Block =
      nn::BlockTensors<nn::AttentionTensors<width>, nn::Mlp<width, width * mlp_ratio, typename Policies::Activation>,
                       Policies::MlpNorm::template Layer>;
  using Norm = nn::LayerNorm<width>;

  template <class Leaf>
  struct Parameters {
    std::array<typename Block::template Parameters<Leaf>, depth> blocks;
    typename Norm::template Parameters<Leaf> norm;
  };

  // Declares blocks.i.* and norm.* under `name`, or under the two names given.
  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    return declare(visit, name / "blocks", name / "norm");
  }
  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& blocks, const Name& norm) {
    Parameters<typename Visit::Leaf> p;
    for (int i = 0; i < depth; ++i) p.blocks[static_cast<std::size_t>(i)] = Block::declare(visit, blocks / i);
    if constexpr (final_norm) p.norm = Norm::declare(visit, norm);
    return p;
  }
};

// depth - 1 times Block, then LastBlock, which has the tensors of Block. x is images*tokens x width; y has
// LastBlock::out_rows rows. With drop path block i takes the scales of number i from the context.
template <class Block, class LastBlock, int depth>
struct BlockStack {
  static_assert(depth > 0, "tessera: a transformer needs at least one block");
  static constexpr int width = Block::width, in = width, out = width, tokens = Block::Attention::tokens;

  template <class Leaf>
  using Parameters = std::array<typename Block::template Parameters<Leaf>, depth>;
  template <class Scalar>
  struct Saved {
    std::array<Rows<Scalar, width>, depth - 1> outputs;  // of all blocks but the last
    std::array<typename Block::template Saved<Scalar>, depth - 1> blocks;
    typename LastBlock::template Saved<Scalar> last_block;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                               Rows<Scalar, width> y) {
    const index images = x.rows / tokens;
    Saved<Scalar> saved;
    for (auto& output : saved.outputs) output = context.template take<width>(x.rows);
    for (std::size_t i = 0; i != last; ++i)
      saved.blocks[i] = Block::forward(context, p[i], input(x, saved, i), saved.outputs[i],
                                       nn::branch_scales(context, static_cast<int>(i), images));
    saved.last_block = LastBlock::forward(context, p[last], input(x, saved, last), y,
                                          nn::branch_scales(context, static_cast<int>(last), images));
    return saved;
  }

  // Assigns y, saves nothing for backward and applies no drop path. Overwrites x.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<Scalar, width> x,
                     Rows<Scalar, width> y) {
    const auto frame = context.frame();
    LastBlock::forward(context, p[last], Rows<const Scalar, width>(run(context, p, x, last)), y);
  }

  // The output of the first `blocks` blocks, in x or in the arena. Overwrites x.
  template <class Context, class Scalar>
  static Rows<Scalar, width> run(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<Scalar, width> x,
                                 std::size_t blocks) {
    auto y = context.template take<width>(x.rows);
    for (std::size_t i = 0; i != blocks; ++i) {
      const auto frame = context.frame();
      Block::forward(context, p[i], Rows<const Scalar, width>(x), y);
      std::swap(x, y);
    }
    return x;
  }

  // Assigns g and dx; dx may be dy if LastBlock allows it (Block does, ClassTokenBlock does not).
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, width> x,
                       const Saved<Scalar>& saved, Rows<const Scalar, width> dy, Rows<Scalar, width> dx) {
    const index images = x.rows / tokens;
    LastBlock::backward(context, p[last], g[last], input(x, saved, last), saved.last_block, dy, dx,
                        nn::branch_scales(context, static_cast<int>(last), images));
    context.gradients_final(g[last].norm1.weight);
    for (std::size_t i = last; i-- > 0;) {
      Block::backward(context, p[i], g[i], input(x, saved, i), saved.blocks[i], Rows<const Scalar, width>(dx), dx,
                      nn::branch_scales(context, static_cast<int>(i), images));
      context.gradients_final(g[i].norm1.weight);
    }
  }

 private:
  static constexpr std::size_t last = depth - 1;

  template <class Scalar>
  static Rows<const Scalar, width> input(Rows<const Scalar, width> x, const Saved<Scalar>& saved, std::size_t block) {
    return block == 0 ? x : Rows<const Scalar, width>(saved.outputs[block - 1]);
  }
};

// The block of an encoder with Policies, without recomputation.
template <int width, int heads, int tokens, int mlp_ratio, class Policies>
using PlainBlock =
    nn::Block<nn::Attention<width, tokens, heads, typename Policies::Attention>,
              nn::Mlp<width, width * mlp_ratio, typename Policies::Activation>, Policies::MlpNorm::template Layer>;

// `depth` blocks, then LayerNorm if final_norm. x and y are images*tokens x width. MAE's decoder is a Trunk declared
// under names of its own.
template <int width_, int depth_, int heads_, int tokens_, int mlp_ratio = 4, class Policies = policies<>,
          bool final_norm = true>
struct Trunk : TrunkTensors<width_, depth_, mlp_ratio, Policies, final_norm> {
  static constexpr int width = width_, depth = depth_, heads = heads_, tokens = tokens_, in = width, out = width;
  using Tensors = TrunkTensors<width, depth, mlp_ratio, Policies, final_norm>;
  using Tensors::declare;
  using typename Tensors::Norm;
  using Block = PlainBlock<width, heads, tokens, mlp_ratio, Policies>;
  using Stack = BlockStack<typename Policies::Recompute::template Layer<Block>, Block, depth>;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    typename Stack::template Saved<Scalar> stack;
    Rows<Scalar, width> last;  // enters the final norm
    typename Norm::template Saved<Scalar> norm;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
                               Rows<Scalar, out> y) {
    Saved<Scalar> saved;
    if constexpr (final_norm) saved.last = context.template take<width>(x.rows);
    saved.stack = Stack::forward(context, p.blocks, x, final_norm ? saved.last : y);
    if constexpr (final_norm) saved.norm = Norm::forward(context, p.norm, Rows<const Scalar, width>(saved.last), y);
    return saved;
  }

  // Assigns y, saves nothing for backward and applies no drop path. Overwrites x.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<Scalar, in> x,
                     Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto last = final_norm ? context.template take<width>(x.rows) : y;
    Stack::encode(context, p.blocks, x, last);
    if constexpr (final_norm) Norm::forward(context, p.norm, Rows<const Scalar, width>(last), y);
  }

  // Assigns g and dx; dx may be dy.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>& saved,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
    if constexpr (final_norm) {
      Norm::backward(context, p.norm, g.norm, Rows<const Scalar, width>(saved.last), saved.norm, dy, dx);
      context.gradients_final(g.norm.weight);
      Stack::backward(context, p.blocks, g.blocks, x, saved.stack, Rows<const Scalar, width>(dx), dx);
    } else {
      Stack::backward(context, p.blocks, g.blocks, x, saved.stack, dy, dx);
    }
  }
};

}  // namespace vit
}  // namespace TESSERA_ABI
}  // namespace tessera
