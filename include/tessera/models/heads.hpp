// Projection heads, prediction heads and classifiers.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tessera/concepts.hpp"
#include "tessera/nn/activation.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/nn/init.hpp"
#include "tessera/nn/linear.hpp"
#include "tessera/nn/sequential.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace heads {

// The layer behind the last linear map of a head; batch_norm has no weight and bias.
enum class LastNorm { none, batch_norm, affine_batch_norm };

namespace detail {

template <int in, int out>
using HeadLinear = nn::Linear<in, out, false, nn::FanInUniform>;

template <class... Layers>
struct List {};

template <LastNorm norm, int out, class... Layers>
constexpr auto finished(List<Layers...>) {
  if constexpr (norm == LastNorm::none)
    return std::type_identity<nn::Sequential<Layers...>>{};
  else
    return std::type_identity<nn::Sequential<Layers..., nn::BatchNorm<out, norm == LastNorm::affine_batch_norm>>>{};
}

// `hidden_layers` times (linear map, BatchNorm, ReLU), then the last linear map.
template <int hidden_layers, int in, int hidden, int out, LastNorm norm, class... Layers>
constexpr auto mlp_layers(List<Layers...>) {
  if constexpr (hidden_layers == 0)
    return finished<norm, out>(List<Layers..., HeadLinear<in, out>>{});
  else
    return mlp_layers<hidden_layers - 1, hidden, hidden, out, norm>(
        List<Layers..., HeadLinear<in, hidden>, nn::BatchNorm<hidden>, nn::Activation<nn::Relu, hidden>>{});
}

}  // namespace detail

// `layers` linear maps without bias; BatchNorm and ReLU follow each but the last, which `last_norm` follows. The
// projector of MoCo v3 is Mlp<3, 4096, 256> for a ViT and Mlp<2, 4096, 256> for a ResNet; its predictor is
// Mlp<2, 4096, 256> and Mlp<2, 4096, 256, LastNorm::none> (docs/method.md, 2.7).
template <int layers, int hidden, int out_, LastNorm last_norm = LastNorm::batch_norm>
struct Mlp {
  static_assert(layers > 0 && hidden > 0 && out_ > 0, "tessera: a head needs at least one layer and one feature");
  static constexpr int out = out_;
  template <int in>
  using Layer = typename decltype(detail::mlp_layers<layers - 1, in, hidden, out, last_norm>(detail::List<>{}))::type;
};

// A linear map with bias to `classes` logits; by default weight N(0, 0.02^2) and bias 0 (docs/method.md, 9.1).
template <int classes, class Init = nn::Normal<2, 100>>
struct Classifier {
  static_assert(classes > 0, "tessera: a classifier needs at least one class");
  static constexpr int out = classes;
  template <int in>
  using Layer = nn::Linear<in, classes, true, Init>;
};

}  // namespace heads

// An encoder with a head: images (images x in) to y (images x out). Tensors: those of the encoder, then head.*.
template <class Encoder_, class Head_>
struct WithHead {
  static_assert(Backbone<Encoder_>,
                "tessera: an encoder is a Layer from images to features with Image and encode; "
                "tessera/concepts.hpp, Backbone, shows one");
  using Encoder = Encoder_;
  using Head = typename Head_::template Layer<Encoder::out>;
  static constexpr int in = Encoder::in, width = Encoder::out, out = Head::out;

  template <class Leaf>
  struct Parameters {
    typename Encoder::template Parameters<Leaf> encoder;
    typename Head::template Parameters<Leaf> head;
  };
  template <class Scalar>
  struct Saved {
    Rows<Scalar, width> features;
    typename Encoder::template Saved<Scalar> encoder;
    typename Head::template Saved<Scalar> head;
  };

  [[nodiscard]] static constexpr index out_rows(index rows) { return rows; }

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.encoder = Encoder::declare(visit, name);
    p.head = Head::declare(visit, name / "head");
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               Rows<Scalar, out> y) {
    Saved<Scalar> saved;
    saved.features = context.template take<width>(images.rows);
    saved.encoder = Encoder::forward(context, p.encoder, images, saved.features);
    saved.head = Head::forward(context, p.head, Rows<const Scalar, width>(saved.features), y);
    return saved;
  }

  // Assigns y and saves nothing for backward.
  template <class Context, class Scalar>
  static void encode(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                     Rows<Scalar, out> y) {
    const auto frame = context.frame();
    const auto x = context.template take<width>(images.rows);
    Encoder::encode(context, p.encoder, images, x);
    Head::forward(context, p.head, Rows<const Scalar, width>(x), y);
  }

  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> dy) {
    const auto frame = context.frame();
    const auto d_features = context.template take<width>(images.rows);
    Head::backward(context, p.head, g.head, Rows<const Scalar, width>(saved.features), saved.head, dy, d_features);
    Encoder::backward(context, p.encoder, g.encoder, images, saved.encoder, Rows<const Scalar, width>(d_features));
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
