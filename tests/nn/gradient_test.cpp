// Every layer, and every combination of a Vision Transformer's policies, against finite differences. A new one joins
// with a line in `Layers`.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "tessera/models/heads.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/testing/gradient.hpp"

namespace tessera::test {
namespace {

template <class Layer_, index rows_, int views_ = 1>
struct Case {
  using Layer = Layer_;
  static constexpr index rows = rows_;
  static constexpr int views = views_;
};

// Layers that add a residual, as layers of their own: y = x + f(x).
template <class Inner, int width>
struct Residual {
  static constexpr int in = width, out = width;
  template <class Leaf>
  using Parameters = typename Inner::template Parameters<Leaf>;
  template <class Scalar>
  using Saved = typename Inner::template Saved<Scalar>;
  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    return Inner::declare(visit, name);
  }
  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Scalar*>& p, Rows<const Scalar, in> x,
                               Rows<Scalar, out> y) {
    return Inner::forward(context, p, x, x, y);
  }
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Scalar*>& p, const Parameters<Scalar*>& g,
                       Rows<const Scalar, in> x, const Saved<Scalar>& saved, Rows<const Scalar, out> dy,
                       Rows<Scalar, in> dx) {
    Inner::backward(context, p, g, x, saved, dy, dx);
    context.backend.compute([&] {
      for (index i = 0; i < dx.size(); ++i) dx.data[i] += dy.data[i];
    });
  }
};

template <class Embed, class Position, class Pooling, class MlpNorm = mlp_norm::LayerNorm, class Activation = nn::Gelu>
using SmallViT =
    VisionTransformer<image<8, 2>, patch<4>, 12, 2, 3, 2, vit::policies<Embed, Position, Pooling, MlpNorm, Activation>>;
template <int tokens, int heads, int width>
using Attention = Residual<nn::Attention<width, tokens, heads>, width>;

using embed::FrozenPatches;
using embed::Patches;
using pooling::ClassToken;
using pooling::Mean;
using pooling::MeanNorm;
using pooling::MeanPatchesNorm;
using position::Learned;
using position::None;
using position::SinCos2d;

using Layers =
    ::testing::Types<Case<nn::Linear<5, 7>, 9>, Case<nn::Linear<6, 3, false>, 600>, Case<nn::LayerNorm<11>, 7>,
                     Case<nn::BatchNorm<5>, 8>, Case<nn::BatchNorm<37>, 12, 2>, Case<nn::BatchNorm<5, false>, 8, 2>,
                     Case<nn::Activation<nn::Gelu, 9>, 4>, Case<nn::Activation<nn::GeluTanh, 9>, 4>,
                     Case<nn::Conv2d<2, 3, 5, 3, 2, 1, true>, 50>, Case<nn::Conv2d<3, 2, 4, 1, 1, 0, true>, 32>,
                     Case<nn::Attention<8, 5, 2>, 15>, Case<Attention<5, 2, 8>, 15>, Case<Attention<17, 3, 15>, 34>,
                     Case<Attention<1, 1, 4>, 3>, Case<nn::Mlp<6, 10>, 9>, Case<Residual<nn::Mlp<6, 10>, 6>, 9>,
                     Case<Residual<nn::Mlp<6, 10, nn::GeluTanh>, 6>, 9>,
                     Case<nn::Block<nn::Attention<8, 4, 2>, nn::Mlp<8, 16>>, 12>,
                     Case<nn::Block<nn::Attention<8, 4, 2>, nn::Mlp<8, 16>, mlp_norm::BatchNorm::Layer>, 16, 2>,
                     Case<nn::ClassTokenBlock<nn::Block<nn::Attention<8, 4, 2>, nn::Mlp<8, 16>>>, 12>,
                     Case<SmallViT<Patches, SinCos2d, ClassToken, mlp_norm::BatchNorm>, 4, 2>,
                     Case<SmallViT<Patches, SinCos2d, ClassToken>, 3>, Case<SmallViT<Patches, Learned, ClassToken>, 3>,
                     Case<SmallViT<Patches, None, ClassToken>, 3>, Case<SmallViT<Patches, SinCos2d, MeanNorm>, 3>,
                     Case<SmallViT<Patches, Learned, MeanNorm>, 3>, Case<SmallViT<Patches, None, MeanNorm>, 3>,
                     Case<SmallViT<Patches, SinCos2d, Mean>, 3>, Case<SmallViT<Patches, Learned, Mean>, 3>,
                     Case<SmallViT<FrozenPatches, None, Mean>, 3>, Case<SmallViT<Patches, Learned, MeanPatchesNorm>, 3>,
                     Case<SmallViT<FrozenPatches, SinCos2d, MeanPatchesNorm, mlp_norm::BatchNorm>, 4, 2>,
                     Case<SmallViT<Patches, Learned, ClassToken>::at<image<12, 2>>, 3>,
                     Case<SmallViT<Patches, Learned, MeanNorm>::at<image<16, 2>>, 2>,
                     Case<SmallViT<Patches, SinCos2d, Mean>::at<image<4, 2>>, 3>,
                     Case<SmallViT<Patches, None, ClassToken>::at<image<12, 2>>, 2>,
                     Case<SmallViT<FrozenPatches, SinCos2d, ClassToken, mlp_norm::BatchNorm>, 4, 2>,
                     Case<SmallViT<Patches, Learned, MeanNorm, mlp_norm::BatchNorm, nn::GeluTanh>, 4, 2>>;

template <class One>
class Gradient : public ::testing::Test {};
TYPED_TEST_SUITE(Gradient, Layers);

TYPED_TEST(Gradient, EqualsFiniteDifferences) {
  std::string worst;
  EXPECT_LT((testing::gradient_error<typename TypeParam::Layer>(TypeParam::rows, TypeParam::views, &worst)), 1e-7)
      << worst;
}

// The tokens of a few patches as a layer: the numbers of those that stay are fixed.
template <class Encoder, int kept>
struct Visible : Encoder::template Visible<kept> {
  using Base = typename Encoder::template Visible<kept>;
  static constexpr auto keep = [] {  // of up to four images
    std::array<int, 4 * kept> numbers{};
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i / kept + 3 * (i % kept)) % 4;
    return numbers;
  }();

  template <class Scalar>
  using Saved = typename Base::template Saved<Scalar>;
  template <class Leaf>
  using Parameters = typename Base::template Parameters<Leaf>;

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Scalar*>& p, Rows<const Scalar, Base::in> images,
                               Rows<Scalar, Base::out> y) {
    return Base::forward(context, p, images, keep.data(), y);
  }
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Scalar*>& p, const Parameters<Scalar*>& g,
                       Rows<const Scalar, Base::in> images, const Saved<Scalar>& saved,
                       Rows<const Scalar, Base::out> dy, Rows<Scalar, Base::in> d_images) {
    Base::backward(context, p, g, images, keep.data(), saved, dy, d_images);
  }
};

using Sequences = ::testing::Types<
    Case<SmallViT<Patches, Learned, ClassToken>::Tokens, 3>, Case<SmallViT<Patches, SinCos2d, Mean>::Tokens, 3>,
    Case<SmallViT<Patches, Learned, MeanNorm, mlp_norm::BatchNorm>::Tokens, 4, 2>,
    Case<SmallViT<Patches, SinCos2d, MeanPatchesNorm>::Tokens, 2>,
    Case<SmallViT<FrozenPatches, Learned, ClassToken>::at<image<12, 2>>::Tokens, 2>,
    Case<VisionTransformer<image<8, 2>, patch<4>, 12, 1, 3, 2, vit::policies<recompute::Blocks>>::Tokens, 3>,
    Case<Visible<SmallViT<Patches, Learned, ClassToken>, 3>, 4>,
    Case<Visible<SmallViT<Patches, SinCos2d, MeanNorm>, 2>, 4>,
    Case<Visible<SmallViT<FrozenPatches, None, ClassToken>, 4>, 3>,
    Case<Visible<SmallViT<Patches, Learned, Mean>::at<image<12, 2>>, 4>, 3>, Case<vit::Trunk<12, 2, 3, 5>, 10>,
    Case<vit::Trunk<12, 2, 3, 5, 2, vit::policies<nn::GeluTanh>, false>, 10>>;
template <class One>
class GradientOfTokens : public ::testing::Test {};
TYPED_TEST_SUITE(GradientOfTokens, Sequences);

TYPED_TEST(GradientOfTokens, EqualsFiniteDifferences) {
  std::string worst;
  EXPECT_LT((testing::gradient_error<typename TypeParam::Layer>(TypeParam::rows, TypeParam::views, &worst)), 1e-7)
      << worst;
}

template <class Encoder>
class GradientWithDropPath : public ::testing::Test {};
using Dropped =
    ::testing::Types<SmallViT<Patches, Learned, ClassToken>, SmallViT<Patches, SinCos2d, MeanNorm>,
                     SmallViT<Patches, Learned, MeanPatchesNorm>,
                     SmallViT<FrozenPatches, SinCos2d, ClassToken, mlp_norm::BatchNorm>,
                     VisionTransformer<image<8, 2>, patch<4>, 12, 3, 3, 2, vit::policies<recompute::Blocks>>>;
TYPED_TEST_SUITE(GradientWithDropPath, Dropped);

// Factors of 0 and of 1 / (1 - rate), different for every branch and image.
TYPED_TEST(GradientWithDropPath, EqualsFiniteDifferences) {
  constexpr index images = 4;
  std::vector<double> scales(2 * TypeParam::depth * images);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = i % 3 == 1 ? 0 : 1 / (1 - 0.02 * static_cast<double>(i));
  std::string worst;
  const double error = testing::gradient_error<TypeParam>(images, 1, &worst, [&](auto& context) {
    context.drop_path = true;
    context.branch_scales = scales.data();
  });
  EXPECT_LT(error, 1e-7) << worst;
}

// ReLU's kink spoils differences that straddle it; few of these do, and by little. The convolutional stem, which has
// many, is compared with the reference in tests/models.
TEST(GradientWithRelu, EqualsFiniteDifferencesNearly) {
  EXPECT_LT((testing::gradient_error<nn::Activation<nn::Relu, 9>>(4)), 1e-7);
  EXPECT_LT((testing::gradient_error<heads::Mlp<3, 7, 4>::Layer<5>>(12, 2)), 2e-2);
  EXPECT_LT((testing::gradient_error<heads::Mlp<2, 7, 4>::Layer<4>>(12, 2)), 2e-2);
}

}  // namespace
}  // namespace tessera::test
