// From images to tokens: patch embedding, class token, position table.
#pragma once

#include <type_traits>

#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/image.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/resample.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace vit {

// The tensors in front of the blocks. Native is the image size of the position table.
template <class Native, class Patch, int width, class Policies>
struct EmbeddingTensors {
  using NativeEmbed = typename Policies::Embed::template Layer<Native, Patch, width>;
  using Position = typename Policies::Position;
  static_assert(PositionEmbedding<Position>,
                "tessera: a position embedding needs trained, supports<width> and declare(visit, name, tokens, width)");
  static_assert(Position::template supports<width>,
                "tessera: sine-cosine position embeddings need a width divisible by 4");
  static constexpr bool class_token = Policies::Pooling::class_token;

  template <class Leaf>
  struct Parameters {
    Leaf cls_token{}, pos_embed{};
    typename NativeEmbed::template Parameters<Leaf> patch_embed;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    if constexpr (class_token)
      p.cls_token = visit(name / "cls_token", Shape(1, 1, width), Role::trained, Initial::normal(1e-6));
    p.pos_embed = Position::declare(visit, name, NativeEmbed::tokens + (class_token ? 1 : 0), width);
    p.patch_embed = NativeEmbed::declare(visit, name / "patch_embed");
    return p;
  }

  // True if there is a position table.
  static constexpr bool has_positions = [] {
    layout::Count visit;
    Position::declare(visit, Name{}, 5, width);
    return visit.entries > 0;
  }();
};

// Images (images x channels*size*size) to tokens (images*tokens x width): the class token, if there is one, then the
// patches row by row, plus the position table. For images of another size than Native the table is resampled as in DINO
// (docs/method.md, 2.5); the tensors stay the same.
template <class Native, class Image, class Patch, int width, class Policies>
struct Embedding : EmbeddingTensors<Native, Patch, width, Policies> {
  using Tensors = EmbeddingTensors<Native, Patch, width, Policies>;
  using Tensors::class_token, Tensors::declare, Tensors::has_positions;
  using typename Tensors::NativeEmbed, typename Tensors::Position;
  using Embed = typename Policies::Embed::template Layer<Image, Patch, width>;
  static_assert(
      std::is_same_v<typename Embed::template Parameters<char>, typename NativeEmbed::template Parameters<char>>,
      "tessera: the tensors of a patch embedding must not depend on the image size");

  static constexpr int extra = class_token ? 1 : 0;  // tokens in front of the patches
  static constexpr int grid = Embed::grid, patches = Embed::tokens, tokens = patches + extra;
  static constexpr int in = Image::values, out = width;
  static constexpr bool resampled = has_positions && grid != NativeEmbed::grid;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  using Saved = typename Embed::template Saved<Scalar>;

  [[nodiscard]] static constexpr index out_rows(index images) { return images * tokens; }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               Rows<Scalar, out> y) {
    const auto embedded = context.template take<width>(images.rows * patches);
    const Saved<Scalar> saved = Embed::forward(context, p.patch_embed, images, embedded);
    const auto frame = context.frame();
    assemble_tokens<patches, tokens>(context.backend, Rows<const Scalar, width>(embedded), p.cls_token,
                                     positions<Scalar>(context, p.pos_embed), y);
    return saved;
  }

  // Assigns g and, if d_images is wanted, the gradient of the images.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> dy, Rows<Scalar, in> d_images) {
    const auto frame = context.frame();
    const bool wanted = Embed::trained || context.frozen_gradients || d_images.wanted();
    Rows<Scalar, width> d_embedded{};
    if (wanted) d_embedded = context.template take<width>(images.rows * patches);
    Accumulator<Scalar>* const d_positions = position_gradient<Scalar>(context, g.pos_embed);
    assemble_tokens_backward<patches, tokens>(context.backend, dy, d_embedded, g.cls_token, d_positions);
    finish_position_gradient<Scalar>(context, d_positions, g.pos_embed);
    if (wanted)
      Embed::backward(context, p.patch_embed, g.patch_embed, images, saved, Rows<const Scalar, width>(d_embedded),
                      d_images);
  }

  // forward for `kept` patches of each image: keep (images x kept) has their numbers, y is images*(extra + kept) x
  // width. A patch gets the row of the position table of its number.
  template <int kept, class Context, class Scalar>
  static void forward_kept(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                           const int* keep, Rows<Scalar, out> y) {
    check_subset();
    const auto frame = context.frame();
    const auto embedded = context.template take<width>(images.rows * kept);
    Embed::template forward_kept<kept>(context, p.patch_embed, images, keep, embedded);
    assemble_tokens<kept, extra + kept>(context.backend, Rows<const Scalar, width>(embedded), p.cls_token,
                                        static_cast<const Accumulator<Scalar>*>(nullptr), y);
    if constexpr (has_positions)
      add_positions<extra, kept>(
          context.backend, Rows<const Accumulator<Scalar>, width>{positions<Scalar>(context, p.pos_embed), tokens},
          keep, y);
  }

  template <int kept, class Context, class Scalar>
  static void backward_kept(Context& context, const Parameters<Parameter<Scalar>>& p,
                            const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images, const int* keep,
                            Rows<const Scalar, out> dy, Rows<Scalar, in> d_images) {
    check_subset();
    const auto frame = context.frame();
    const bool wanted = Embed::trained || context.frozen_gradients || d_images.wanted();
    Rows<Scalar, width> d_embedded{};
    if (wanted) d_embedded = context.template take<width>(images.rows * kept);
    assemble_tokens_backward<kept, extra + kept>(context.backend, dy, d_embedded, g.cls_token,
                                                 static_cast<Accumulator<Scalar>*>(nullptr));
    if constexpr (Position::trained) {
      const Rows<Accumulator<Scalar>, width> d_positions{position_gradient<Scalar>(context, g.pos_embed), tokens};
      add_positions_backward<extra, kept>(context.backend, dy, keep, d_positions);
      finish_position_gradient<Scalar>(context, d_positions.data, g.pos_embed);
    }
    if (wanted)
      Embed::template backward_kept<kept>(context, p.patch_embed, g.patch_embed, images, keep,
                                          Rows<const Scalar, width>(d_embedded), d_images);
  }

 private:
  static constexpr Grid native_grid{NativeEmbed::grid, NativeEmbed::grid}, own_grid{grid, grid};
  static constexpr int table_rows = NativeEmbed::tokens + extra;
  static constexpr double dino_extra = 0.1;

  // The position table for this image size (tokens x width), or null if there is none.
  template <class Scalar, class Context>
  static const Accumulator<Scalar>* positions(Context& context, const Accumulator<Scalar>* table) {
    if constexpr (resampled) {
      const auto own = context.template take<width, Accumulator<Scalar>>(tokens);
      resample_positions<native_grid, own_grid>(
          context.backend, Rows<const Accumulator<Scalar>, width>{table, table_rows}, dino_extra, own);
      return own.data;
    } else {
      return table;
    }
  }

  // The memory for the gradient of that table (tokens x width), or null if the table is not trained.
  template <class Scalar, class Context>
  static Accumulator<Scalar>* position_gradient(Context& context, Accumulator<Scalar>* d_table) {
    if constexpr (!Position::trained)
      return nullptr;
    else if constexpr (resampled)
      return context.template take<width, Accumulator<Scalar>>(tokens).data;
    else
      return d_table;
  }

  // Assigns d_table, the gradient of the tensor, from that of the resampled table; without resampling they are the
  // same.
  template <class Scalar, class Context>
  static void finish_position_gradient(Context& context, const Accumulator<Scalar>* d_positions,
                                       Accumulator<Scalar>* d_table) {
    using Values = Accumulator<Scalar>;
    if constexpr (resampled && Position::trained)
      resample_positions_backward<native_grid, own_grid>(context.backend,
                                                         Rows<const Values, width>{d_positions, tokens}, dino_extra,
                                                         Rows<Values, width>{d_table, table_rows});
  }

  static constexpr void check_subset() {
    static_assert(
        requires { requires Embed::each_patch_alone; },
        "tessera: a subset of the patches needs an embedding that projects each patch alone, such as "
        "embed::Patches: the convolutional stem cannot");
  }
};

}  // namespace vit
}  // namespace TESSERA_ABI
}  // namespace tessera
