// The convolutional stem, in place of the patch projection.
#pragma once

#include "tessera/models/vit/embed.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/nn/conv.hpp"
#include "tessera/nn/sequential.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace embed {

// Four times (convolution 3 x 3 with stride 2, BatchNorm, ReLU), then a convolution 1 x 1 with bias; total stride 16
// (docs/method.md, 2.4). Layer: images (images x channels*size*size) to y (images*tokens x width).
struct ConvStem {
  template <class Image, class Patch, int width>
  struct Layer {
    static_assert(Patch::size == 16, "tessera: the convolutional stem has a total stride of 16: use patch<16>");
    static_assert(Image::size % 16 == 0, "tessera: the convolutional stem needs an image size divisible by 16");
    static_assert(width % 8 == 0, "tessera: the convolutional stem needs a width divisible by 8");
    static constexpr int size = Image::size, channels = Image::channels, grid = size / 16, tokens = grid * grid;
    static constexpr int in = Image::values, out = width;
    static constexpr bool trained = true;

    template <int from, int to, int input_size>
    using Conv = nn::Conv2d<from, to, input_size, 3, 2, 1, false>;
    template <int features>
    using Relu = nn::Activation<nn::Relu, features>;
    using Stem = nn::Sequential<Conv<channels, width / 8, size>, nn::BatchNorm<width / 8>, Relu<width / 8>,
                                Conv<width / 8, width / 4, size / 2>, nn::BatchNorm<width / 4>, Relu<width / 4>,
                                Conv<width / 4, width / 2, size / 4>, nn::BatchNorm<width / 2>, Relu<width / 2>,
                                Conv<width / 2, width, size / 8>, nn::BatchNorm<width>, Relu<width>,
                                nn::Conv2d<width, width, grid, 1, 1, 0, true>>;

    template <class Leaf>
    using Parameters = typename Stem::template Parameters<Leaf>;
    template <class Scalar>
    struct Saved {
      Rows<Scalar, channels> pixels;
      typename Stem::template Saved<Scalar> stem;
    };

    [[nodiscard]] static constexpr index out_rows(index images) { return images * tokens; }

    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& name) {
      return Stem::declare(visit, name / "proj");
    }

    template <class Context, class Scalar>
    static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p,
                                 Rows<const Scalar, in> images, Rows<Scalar, out> y) {
      Saved<Scalar> saved{context.template take<channels>(images.rows * size * size), {}};
      to_channels_last<channels, size * size>(context.backend, images, saved.pixels);
      saved.stem = Stem::forward(context, p, Rows<const Scalar, channels>(saved.pixels), y);
      return saved;
    }

    // Assigns g and, if d_images is wanted, the gradient of the images.
    template <class Context, class Scalar>
    static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                         const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images,
                         const Saved<Scalar>& saved, Rows<const Scalar, out> dy, Rows<Scalar, in> d_images) {
      const auto frame = context.frame();
      Rows<Scalar, channels> d_pixels{};
      if (d_images.wanted()) d_pixels = context.template take<channels>(images.rows * size * size);
      Stem::backward(context, p, g, Rows<const Scalar, channels>(saved.pixels), saved.stem, dy, d_pixels);
      if (d_images.wanted())
        to_planar<channels, size * size>(context.backend, Rows<const Scalar, channels>(d_pixels), d_images);
    }
  };
};

}  // namespace embed
}  // namespace TESSERA_ABI
}  // namespace tessera
