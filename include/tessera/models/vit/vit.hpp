// Vision Transformers as types.
#pragma once

#include <cstddef>
#include <type_traits>

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/image.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/models/vit/conv_stem.hpp"
#include "tessera/models/vit/embed.hpp"
#include "tessera/models/vit/embedding.hpp"
#include "tessera/models/vit/policies.hpp"
#include "tessera/models/vit/pooling.hpp"
#include "tessera/models/vit/position.hpp"
#include "tessera/models/vit/tokens.hpp"
#include "tessera/models/vit/trunk.hpp"
#include "tessera/nn/block.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace vit {

// The tensors of a Vision Transformer, with the names and in the order of timm's and MoCo v3's checkpoints
// (docs/method.md, 2.11). Of these only the position table depends on the image size, which is Native.
template <class Native, class Patch, int width, int depth, int mlp_ratio, class Policies>
struct Tensors {
  using Embedding = EmbeddingTensors<Native, Patch, width, Policies>;
  using Trunk = TrunkTensors<width, depth, mlp_ratio, Policies, Policies::Pooling::final_norm>;
  using Norm = typename Trunk::Norm;

  template <class Leaf>
  struct Parameters : Embedding::template Parameters<Leaf>, Trunk::template Parameters<Leaf> {
    typename Norm::template Parameters<Leaf> fc_norm;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p{Embedding::declare(visit, name), Trunk::declare(visit, name), {}};
    if constexpr (has_fc_norm<typename Policies::Pooling>) p.fc_norm = Norm::declare(visit, name / "fc_norm");
    return p;
  }
};

}  // namespace vit

// A Vision Transformer (docs/method.md, 2.2): images (images x channels*size*size, planar, normalised) to features
// (images x width). Patch embedding, class token and position table, `depth` blocks, final norm, pooling. Do not give
// Native: `at` sets it.
template <class Image_, class Patch, int width_, int depth_, int heads_, int mlp_ratio = 4,
          class Policies = vit::policies<>, class Native = Image_>
struct VisionTransformer : vit::Tensors<Native, Patch, width_, depth_, mlp_ratio, Policies> {
  using Image = Image_;
  using Pooling = typename Policies::Pooling;
  using Tensors = vit::Tensors<Native, Patch, width_, depth_, mlp_ratio, Policies>;
  using Tensors::declare;
  using Embedding = vit::Embedding<Native, Image, Patch, width_, Policies>;

  // The encoder for images of another size, with the same tensors and layout. forward and backward resample the
  // position table (docs/method.md, 2.5).
  template <class Other>
  using at = VisionTransformer<Other, Patch, width_, depth_, heads_, mlp_ratio, Policies, Native>;

  static constexpr int width = width_, depth = depth_, heads = heads_, grid = Embedding::grid;
  static constexpr int patches = Embedding::patches, tokens = Embedding::tokens;
  static constexpr int in = Image::values, out = width;
  static_assert(
      tessera::Pooling<Pooling>,
      "tessera: a pooling needs class_token and final_norm; a class token needs the final norm, unless fc_norm "
      "stands in its place");

  // The encoder with all tokens, or with the tokens of `kept` patches of each image, as its result; the same tensors.
  using Tokens = vit::AllTokens<VisionTransformer>;
  template <int kept>
  using Visible = vit::VisibleTokens<VisionTransformer, kept>;

  // The blocks and the final norm on `count` tokens of an image, with all of them as the result.
  template <int count>
  using TrunkOn = vit::Trunk<width, depth, heads, count, mlp_ratio, Policies, Pooling::final_norm>;

  using PlainBlock = vit::PlainBlock<width, heads, tokens, mlp_ratio, Policies>;
  using Block = typename Policies::Recompute::template Layer<PlainBlock>;
  static constexpr bool class_token_alone =
      Pooling::class_token && !has_fc_norm<Pooling> && Block::Norm2::each_row_alone;
  using LastBlock = std::conditional_t<class_token_alone, nn::ClassTokenBlock<PlainBlock>, PlainBlock>;
  static constexpr int last_tokens = class_token_alone ? 1 : tokens;  // tokens of an image behind the last block
  using Stack = vit::BlockStack<Block, LastBlock, depth>;
  using typename Tensors::Norm;
  static constexpr bool has_attention_maps = AttentionWeights<typename Policies::Attention>;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> x;     // input of the first block
    Rows<Scalar, width> last;  // output of the last block
    typename Embedding::template Saved<Scalar> embedding;
    typename Stack::template Saved<Scalar> stack;
    Rows<Scalar, width> pooled;  // input of the final norm (class tokens) or of fc_norm (means)
    typename Norm::template Saved<Scalar> norm;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  // Assigns features (images x width).
  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               Rows<Scalar, out> features) {
    Saved<Scalar> saved;
    saved.x = context.template take<width>(images.rows * tokens);
    saved.last = context.template take<width>(images.rows * last_tokens);
    saved.embedding = Embedding::forward(context, p, images, saved.x);
    saved.stack = Stack::forward(context, p.blocks, Rows<const Scalar, width>(saved.x), saved.last);
    pool(context, p, Rows<const Scalar, width>(saved.last), saved, features);
    return saved;
  }

  // Assigns features and saves nothing for backward: for the momentum encoder and for evaluation.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                     Rows<Scalar, out> features) {
    const auto frame = context.frame();
    const auto x = embed(context, p, images);
    const auto last = context.template take<width>(images.rows * last_tokens);
    Stack::encode(context, p.blocks, x, last);
    Saved<Scalar> saved;
    pool(context, p, Rows<const Scalar, width>(last), saved, features);
  }

  // Assigns the attention weights of block number `block`, 0 to depth - 1: weights is images*heads*tokens x tokens. The
  // attention policy must model AttentionWeights (concepts.hpp).
  template <class Context, class Scalar>
  static void encode_attention(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               int block, Rows<Scalar, tokens> weights) {
    static_assert(has_attention_maps,
                  "tessera: the attention policy has no weights(), and so no attention maps; docs/writing-a-policy.md "
                  "shows one that has");
    const auto frame = context.frame();
    const auto number = static_cast<std::size_t>(block);
    const Rows<const Scalar, width> x = Stack::run(context, p.blocks, embed(context, p, images), number);
    const auto& parameters = p.blocks[number];
    const auto normed = context.template take<width>(x.rows);
    const auto qkv = context.template take<3 * width>(x.rows);
    Norm::forward(context, parameters.norm1, x, normed);
    Block::Attention::Qkv::forward(context, parameters.attn.qkv, Rows<const Scalar, width>(normed), qkv);
    Policies::Attention::template weights<tokens, heads>(context, Rows<const Scalar, 3 * width>(qkv), weights);
  }

  // Assigns g and, if d_images is wanted, the gradient of the images.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> d_features, Rows<Scalar, in> d_images = {}) {
    const auto frame = context.frame();
    const auto dx = context.template take<width>(images.rows * tokens);
    {
      const auto last_frame = context.frame();
      const auto d_last = class_token_alone ? context.template take<width>(images.rows) : dx;
      pool_backward(context, p, g, saved, d_features, d_last);
      if constexpr (has_fc_norm<Pooling>) context.gradients_final(g.fc_norm.weight);
      if constexpr (Pooling::final_norm) context.gradients_final(g.norm.weight);
      Stack::backward(context, p.blocks, g.blocks, Rows<const Scalar, width>(saved.x), saved.stack,
                      Rows<const Scalar, width>(d_last), dx);
    }
    Embedding::backward(context, p, g, images, saved.embedding, Rows<const Scalar, width>(dx), d_images);
  }

  // Zeroes the gradients of fc_norm. Tokens and Visible call it, since their backward does not pass through the
  // pooling.
  template <class Context, class Pointer>
  static void clear_pooling_gradients(Context& context, const Parameters<Pointer>& g) {
    if constexpr (has_fc_norm<Pooling>) {
      context.backend.clear(width, g.fc_norm.weight);
      context.backend.clear(width, g.fc_norm.bias);
    }
  }

 private:
  // The tokens that enter the first block, in the arena.
  template <class Context, class Scalar>
  static Rows<Scalar, width> embed(Context& context, const Parameters<Parameter<Scalar>>& p,
                                   Rows<const Scalar, in> images) {
    const auto x = context.template take<width>(images.rows * tokens);
    const auto frame = context.frame();
    Embedding::forward(context, p, images, x);
    return x;
  }

  template <class Context, class Scalar>
  static void pool(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, width> x,
                   Saved<Scalar>& saved, Rows<Scalar, out> features) {
    if constexpr (has_fc_norm<Pooling>) {
      saved.pooled = context.template take<width>(features.rows);
      mean_tokens<tokens, Embedding::extra>(context.backend, x, saved.pooled);
      saved.norm = Norm::forward(context, p.fc_norm, Rows<const Scalar, width>(saved.pooled), features);
    } else if constexpr (Pooling::class_token) {
      saved.pooled = context.template take<width>(features.rows);
      take_token<last_tokens>(context.backend, x, 0, saved.pooled);
      saved.norm = Norm::forward(context, p.norm, Rows<const Scalar, width>(saved.pooled), features);
    } else if constexpr (Pooling::final_norm) {
      saved.norm.statistics = context.template take<2, Accumulator<Scalar>>(x.rows);
      const auto frame = context.frame();
      const auto normed = context.template take<width>(x.rows);
      layer_norm_forward(context.backend, x, p.norm.weight, p.norm.bias, Norm::epsilon, saved.norm.statistics, normed);
      mean_tokens<tokens>(context.backend, Rows<const Scalar, width>(normed), features);
    } else {
      mean_tokens<tokens>(context.backend, x, features);
    }
  }

  template <class Context, class Scalar>
  static void pool_backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                            const Parameters<Accumulator<Scalar>*>& g, const Saved<Scalar>& saved,
                            Rows<const Scalar, out> d_features, Rows<Scalar, width> dx) {
    using Input = Rows<const Scalar, width>;
    if constexpr (has_fc_norm<Pooling>) {
      const auto frame = context.frame();
      const auto d_pooled = context.template take<width>(d_features.rows);
      Norm::backward(context, p.fc_norm, g.fc_norm, Input(saved.pooled), saved.norm, d_features, d_pooled);
      mean_tokens_backward<tokens, Embedding::extra>(context.backend, Input(d_pooled), dx);
    } else if constexpr (Pooling::class_token) {
      const auto frame = context.frame();
      const auto d_pooled = context.template take<width>(d_features.rows);
      Norm::backward(context, p.norm, g.norm, Input(saved.pooled), saved.norm, d_features, d_pooled);
      take_token_backward<last_tokens>(context.backend, Input(d_pooled), 0, dx);
    } else {
      mean_tokens_backward<tokens>(context.backend, d_features, dx);
      if constexpr (Pooling::final_norm)
        Norm::backward(context, p.norm, g.norm, Input(saved.last), saved.norm, Input(dx), dx);
    }
  }
};

namespace vit {

// The models of docs/method.md, 2.1. Small has 12 heads, DeiT-S has 6: a checkpoint of DeiT-S loads into Small without
// an error and gives wrong features.
template <class Image = image<224>, class Patch = patch<16>, class Policies = policies<>>
using Small = VisionTransformer<Image, Patch, 384, 12, 12, 4, Policies>;
template <class Image = image<224>, class Patch = patch<16>, class Policies = policies<>>
using Base = VisionTransformer<Image, Patch, 768, 12, 12, 4, Policies>;
template <class Image = image<224>, class Patch = patch<16>, class Policies = policies<>>
using Large = VisionTransformer<Image, Patch, 1024, 24, 16, 4, Policies>;
template <class Image = image<224>, class Patch = patch<14>, class Policies = policies<>>
using Huge = VisionTransformer<Image, Patch, 1280, 32, 16, 4, Policies>;

// The models with the convolutional stem have one block fewer (docs/method.md, 2.4).
template <class Image = image<224>, class Policies = policies<embed::ConvStem>>
using ConvSmall = VisionTransformer<Image, patch<16>, 384, 11, 12, 4, Policies>;
template <class Image = image<224>, class Policies = policies<embed::ConvStem>>
using ConvBase = VisionTransformer<Image, patch<16>, 768, 11, 12, 4, Policies>;

// A model for small grey images and tests: 28 x 28 pixels, 16 patches, 0.45 M parameters.
template <class Image = image<28, 1>, class Patch = patch<7>, class Policies = policies<>>
using Tiny = VisionTransformer<Image, Patch, 96, 4, 3, 4, Policies>;

}  // namespace vit
}  // namespace TESSERA_ABI
}  // namespace tessera
