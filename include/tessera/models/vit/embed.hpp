// Patch embeddings by a linear projection of each patch.
#pragma once

#include "tessera/core/context.hpp"
#include "tessera/core/image.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Square patches of size x size pixels.
template <int size_>
struct patch {
  static constexpr int size = size_;
};

namespace embed {

// The tensors of a patch projection, which do not depend on the image size.
template <int channels, int cell, int width, Role role>
struct PatchTensors {
  static constexpr int values = channels * cell * cell;  // of a patch
  using Init = nn::XavierUniform<>;

  template <class Leaf>
  struct Parameters {
    Leaf weight{}, bias{};
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.weight = visit(name / "proj" / "weight", Shape(width, channels, cell, cell), role, Init::weight(values, width));
    p.bias = visit(name / "proj" / "bias", Shape(width), role, Init::bias(values));
    return p;
  }
};

// The layer of Patches and FrozenPatches: images (images x channels*size*size) to y (images*tokens x width), the
// patches row by row (docs/method.md, 2.2).
template <class Image, class Patch, int width, Role role>
struct PatchProjection : PatchTensors<Image::channels, Patch::size, width, role> {
  static_assert(Image::size % Patch::size == 0, "tessera: the patch size must divide the image size");
  static constexpr int size = Image::size, channels = Image::channels, cell = Patch::size;
  static constexpr int grid = size / cell, tokens = grid * grid;
  static constexpr int in = Image::values, out = width;
  static constexpr bool trained = role == Role::trained;
  static constexpr bool each_patch_alone = true;  // a subset of the patches can be embedded
  using Tensors = PatchTensors<channels, cell, width, role>;
  using Tensors::declare, Tensors::values;

  template <class Leaf>
  using Parameters = typename Tensors::template Parameters<Leaf>;
  template <class Scalar>
  using Saved = nn::Nothing;

  [[nodiscard]] static constexpr index out_rows(index images) { return images * tokens; }

  template <class Context, class Scalar>
  static nn::Nothing forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                             Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto patches = context.template take<values>(images.rows * tokens);
    patchify<channels, size, cell>(context.backend, images, patches);
    linear_forward(context.backend, Rows<const Scalar, values>(patches), p.weight, p.bias, Rows<const Scalar, out>{},
                   y);
    return {};
  }

  // Assigns g (of a frozen projection if frozen_gradients is set) and, if d_images is wanted, the gradient of the
  // images. Cuts the patches again instead of saving them.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images, const nn::Nothing&,
                       Rows<const Scalar, out> dy, Rows<Scalar, in> d_images) {
    const auto frame = context.frame();
    const auto patches = context.template take<values>(images.rows * tokens);
    if (trained || context.frozen_gradients) {
      patchify<channels, size, cell>(context.backend, images, patches);
      linear_weight_gradient(context.backend, Rows<const Scalar, values>(patches), dy, g.weight, g.bias);
    }
    if (!d_images.wanted()) return;
    linear_input_gradient(context.backend, dy, p.weight, patches);
    unpatchify<channels, size, cell>(context.backend, Rows<const Scalar, values>(patches), d_images);
  }

  // forward for `kept` patches of each image: keep (images x kept) has their numbers, y is images*kept x width. The
  // other patches are not projected.
  template <int kept, class Context, class Scalar>
  static void forward_kept(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                           const int* keep, Rows<Scalar, out> y) {
    const auto frame = context.frame();
    linear_forward(context.backend, kept_patches<kept>(context, images, keep), p.weight, p.bias,
                   Rows<const Scalar, out>{}, y);
  }

  template <int kept, class Context, class Scalar>
  static void backward_kept(Context& context, const Parameters<Parameter<Scalar>>& p,
                            const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images, const int* keep,
                            Rows<const Scalar, out> dy, Rows<Scalar, in> d_images) {
    if (trained || context.frozen_gradients) {
      const auto frame = context.frame();
      linear_weight_gradient(context.backend, kept_patches<kept>(context, images, keep), dy, g.weight, g.bias);
    }
    if (!d_images.wanted()) return;
    const auto frame = context.frame();
    const auto d_kept = context.template take<values>(dy.rows),
               d_all = context.template take<values>(images.rows * tokens);
    linear_input_gradient(context.backend, dy, p.weight, d_kept);
    scatter_tokens<tokens, kept>(context.backend, Rows<const Scalar, values>(d_kept), keep, d_all);
    unpatchify<channels, size, cell>(context.backend, Rows<const Scalar, values>(d_all), d_images);
  }

 private:
  // The pixels of the kept patches (images*kept x values), in the arena.
  template <int kept, class Context, class Scalar>
  static Rows<const Scalar, values> kept_patches(Context& context, Rows<const Scalar, in> images, const int* keep) {
    const auto chosen = context.template take<values>(images.rows * kept);
    const auto frame = context.frame();
    const auto all = context.template take<values>(images.rows * tokens);
    patchify<channels, size, cell>(context.backend, images, all);
    gather_tokens<tokens, kept>(context.backend, Rows<const Scalar, values>(all), keep, chosen);
    return chosen;
  }
};

// A trained projection.
struct Patches {
  template <class Image, class Patch, int width>
  using Layer = PatchProjection<Image, Patch, width, Role::trained>;
};

// A random projection that keeps its initial values, which the MoCo v3 paper proposes against instability
// (docs/method.md, 2.4 and 7.5).
struct FrozenPatches {
  template <class Image, class Patch, int width>
  using Layer = PatchProjection<Image, Patch, width, Role::frozen>;
};

}  // namespace embed
}  // namespace TESSERA_ABI
}  // namespace tessera
