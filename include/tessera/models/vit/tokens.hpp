// Encoders whose result is the tokens, of all patches or of some, in place of the features of an image.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace vit {

// Images (images x in) to all tokens of the encoder Model (images*tokens x width), behind its final norm if it has one.
// The tensors are those of Model.
template <class Model>
struct AllTokens {
  using Embedding = typename Model::Embedding;
  using Trunk = typename Model::template TrunkOn<Embedding::tokens>;
  static constexpr int in = Model::in, width = Model::width, out = width, tokens = Embedding::tokens;

  template <class Leaf>
  using Parameters = typename Model::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> x;
    typename Embedding::template Saved<Scalar> embedding;
    typename Trunk::template Saved<Scalar> trunk;
  };

  [[nodiscard]] static constexpr index out_rows(index images) { return images * tokens; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    return Model::declare(visit, name);
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               Rows<Scalar, out> y) {
    Saved<Scalar> saved{context.template take<width>(out_rows(images.rows)), {}, {}};
    saved.embedding = Embedding::forward(context, p, images, saved.x);
    saved.trunk = Trunk::forward(context, p, Rows<const Scalar, width>(saved.x), y);
    return saved;
  }

  // y without what backward would need.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                     Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto x = context.template take<width>(y.rows);
    {
      const auto embedding_frame = context.frame();
      Embedding::forward(context, p, images, x);
    }
    Trunk::encode(context, p, x, y);
  }

  // Assigns all gradients g and, if d_images is wanted, that of the images.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> dy, Rows<Scalar, in> d_images = {}) {
    const auto frame = context.frame();
    const auto dx = context.template take<width>(dy.rows);
    Model::clear_pooling_gradients(context, g);
    Trunk::backward(context, p, g, Rows<const Scalar, width>(saved.x), saved.trunk, dy, dx);
    Embedding::backward(context, p, g, images, saved.embedding, Rows<const Scalar, width>(dx), d_images);
  }
};

// Images (images x in) to the class token, if there is one, and the tokens of `kept` patches of each image
// (images*tokens x width). The other patches are not projected and enter no block, as in MAE's encoder
// (docs/method.md, 10.2). keep (images x kept, in memory of the backend) has the numbers of the kept patches, counted
// row by row, in any order; a number must not occur twice for an image. The tensors are those of Model.
template <class Model, int kept_>
struct VisibleTokens {
  static constexpr int kept = kept_;  // patches
  using Embedding = typename Model::Embedding;
  static_assert(kept > 0 && kept <= Embedding::patches,
                "tessera: Visible<kept> keeps at least one patch, and at most all of an image");
  static constexpr int in = Model::in, width = Model::width, out = width;
  static constexpr int tokens = kept + Embedding::extra;
  using Trunk = typename Model::template TrunkOn<tokens>;

  template <class Leaf>
  using Parameters = typename Model::template Parameters<Leaf>;
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> x;
    typename Trunk::template Saved<Scalar> trunk;
  };

  [[nodiscard]] static constexpr index out_rows(index images) { return images * tokens; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    return Model::declare(visit, name);
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               const int* keep, Rows<Scalar, out> y) {
    Saved<Scalar> saved{context.template take<width>(out_rows(images.rows)), {}};
    Embedding::template forward_kept<kept>(context, p, images, keep, saved.x);
    saved.trunk = Trunk::forward(context, p, Rows<const Scalar, width>(saved.x), y);
    return saved;
  }

  // y without what backward would need.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                     const int* keep, Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto x = context.template take<width>(y.rows);
    Embedding::template forward_kept<kept>(context, p, images, keep, x);
    Trunk::encode(context, p, x, y);
  }

  // Assigns all gradients g and, if d_images is wanted, that of the images.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images, const int* keep,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> dy, Rows<Scalar, in> d_images = {}) {
    const auto frame = context.frame();
    const auto dx = context.template take<width>(dy.rows);
    Model::clear_pooling_gradients(context, g);
    Trunk::backward(context, p, g, Rows<const Scalar, width>(saved.x), saved.trunk, dy, dx);
    Embedding::template backward_kept<kept>(context, p, g, images, keep, Rows<const Scalar, width>(dx), d_images);
  }
};

}  // namespace vit
}  // namespace TESSERA_ABI
}  // namespace tessera
