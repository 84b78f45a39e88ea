// Projection and prediction heads (docs/method.md, 2.7).
#pragma once

#include "tessera/nn/activation.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/nn/linear.hpp"
#include "tessera/nn/sequential.hpp"

namespace tessera::inline TESSERA_ABI::ssl {

namespace detail {

template <int in, int out>
using HeadLinear = nn::Linear<in, out, false, nn::FanInUniform>;
template <int in, int hidden, int out>
using TwoLayers = nn::Sequential<HeadLinear<in, hidden>, nn::BatchNorm<hidden>, nn::Activation<nn::Relu, hidden>,
                                 HeadLinear<hidden, out>, nn::BatchNorm<out, false>>;
template <int in, int hidden, int out>
using ThreeLayers = nn::Sequential<HeadLinear<in, hidden>, nn::BatchNorm<hidden>, nn::Activation<nn::Relu, hidden>,
                                   HeadLinear<hidden, hidden>, nn::BatchNorm<hidden>, nn::Activation<nn::Relu, hidden>,
                                   HeadLinear<hidden, out>, nn::BatchNorm<out, false>>;

}  // namespace detail

// Three layers for ViT: linear maps without bias, BatchNorm after each (the last one without affine), ReLU between.
template <int hidden = 4096, int out_ = 256>
struct Projector {
  static constexpr int out = out_;
  template <int in>
  using Layer = detail::ThreeLayers<in, hidden, out>;
};

// Two layers of the same kind, from the projector's width to itself.
template <int hidden = 4096, int out_ = 256>
struct Predictor {
  static constexpr int out = out_;
  template <int in>
  using Layer = detail::TwoLayers<in, hidden, out>;
};

// An encoder with a head on its features. Tensors: the encoder's, then head.*.
template <class Encoder_, class Head_>
struct WithHead {
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

  // y without what backward would need.
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

}  // namespace tessera::inline TESSERA_ABI::ssl
