// MAE (He, Chen, Xie, Li, Dollar, Girshick, "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377;
// docs/method.md, 10).
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "tessera/core/context.hpp"
#include "tessera/core/draws.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/models/vit/trunk.hpp"
#include "tessera/nn/init.hpp"
#include "tessera/nn/linear.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

namespace mae {

// The shape of the decoder: `depth` blocks of width `width` with `heads` heads.
template <int width_, int depth_, int heads_>
struct Decoder {
  static constexpr int width = width_, depth = depth_, heads = heads_;
};

// The mask of a batch (core/masking.hpp): keep (images x kept) has the numbers of the kept patches, restore (images x
// patches) the place of each patch in the order of the noise.
struct Mask {
  int* keep;
  int* restore;
};

// The source of masks whose noise depends on the seed, the step and the image alone.
struct CounterBased {
  template <int patches, int kept, class Step>
  static void draw(Step& s, Mask mask) {
    draw_mask<patches, kept>(s.context.backend, s.number(), s.first_image(), s.images(), mask.keep, mask.restore);
  }
};

// A visitor that passes the tensors of a layer on to Visit with the initial values of MAE in place of the encoder's own
// (docs/method.md, 10.2). A patch has `pixels` values.
template <class Visit, int pixels>
struct Initialized {
  using Leaf = typename Visit::Leaf;
  Visit& visit;

  constexpr Leaf operator()(const Name& name, const Shape& shape, Role role, Initial initial) {
    return visit(name, shape, role, initial_of(name.view(), shape, initial));
  }

  [[nodiscard]] static constexpr Initial initial_of(std::string_view name, const Shape& shape, Initial initial) {
    if (name.ends_with("cls_token")) return Initial::normal(0.02);
    if (name.ends_with("qkv.weight")) return nn::XavierUniform<>::weight(shape.extents[1], shape.extents[0]);
    if (name.ends_with("patch_embed.proj.bias")) return nn::FanInUniform::bias(pixels);
    if (initial.kind == Initial::Kind::sincos_2d) return Initial::sincos_2d_columns_first();
    return initial;
  }
};

// The encoder of the kept patches and the decoder of all patches, with the names of MAE's checkpoints. Maps images
// (images x in) to predictions (images*tokens x out) of the pixels of each patch, in the order of patch_targets
// (core/masking.hpp). The row of the class token, if there is one, does not count.
template <class Encoder_, class Decoder, int kept_>
struct Autoencoder {
  using Encoder = Encoder_;
  using Image = typename Encoder::Image;
  using Visible = typename Encoder::template Visible<kept_>;
  static constexpr int kept = kept_, patches = Encoder::patches, extra = Encoder::Embedding::extra;
  static constexpr int patch = Image::size / Encoder::grid, tokens = extra + patches, width = Decoder::width;
  static constexpr int in = Encoder::in, out = Image::channels * patch * patch;
  using Embed = nn::Linear<Encoder::width, width>;
  using Trunk = vit::Trunk<width, Decoder::depth, Decoder::heads, tokens>;
  using Predict = nn::Linear<width, out>;

  template <class Leaf>
  struct Parameters {
    typename Encoder::template Parameters<Leaf> encoder;
    Leaf mask_token{}, decoder_pos_embed{};
    typename Embed::template Parameters<Leaf> decoder_embed;
    typename Trunk::template Parameters<Leaf> decoder;
    typename Predict::template Parameters<Leaf> decoder_pred;
  };
  template <class Scalar>
  struct Saved {
    Rows<Scalar, Encoder::width> latent;    // output of the encoder
    Rows<Scalar, width> sequence, decoded;  // input of the decoder's blocks, output of its norm
    typename Visible::template Saved<Scalar> encoder;
    typename Trunk::template Saved<Scalar> decoder;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Initialized<Visit, out> to{visit};
    Parameters<typename Visit::Leaf> p;
    p.encoder = Encoder::declare(to, name);
    p.mask_token = to(name / "mask_token", Shape(1, 1, width), Role::trained, Initial::normal(0.02));
    p.decoder_pos_embed = to(name / "decoder_pos_embed", Shape(1, tokens, width), Role::frozen, Initial::sincos_2d());
    p.decoder_embed = Embed::declare(to, name / "decoder_embed");
    p.decoder = Trunk::declare(to, name / "decoder_blocks", name / "decoder_norm");
    p.decoder_pred = Predict::declare(to, name / "decoder_pred");
    return p;
  }

  template <class Context, class Scalar>
  static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> images,
                               Mask mask, Rows<Scalar, out> prediction) {
    using Input = Rows<const Scalar, width>;
    Saved<Scalar> saved;
    saved.latent = context.template take<Encoder::width>(Visible::out_rows(images.rows));
    saved.sequence = context.template take<width>(prediction.rows);
    saved.decoded = context.template take<width>(prediction.rows);
    saved.encoder = Visible::forward(context, p.encoder, images, mask.keep, saved.latent);
    {
      const auto frame = context.frame();
      const auto embedded = context.template take<width>(saved.latent.rows);
      Embed::forward(context, p.decoder_embed, Rows<const Scalar, Encoder::width>(saved.latent), embedded);
      unshuffle_tokens<extra, patches, kept>(context.backend, Input(embedded), p.mask_token, p.decoder_pos_embed,
                                             mask.restore, saved.sequence);
    }
    saved.decoder = Trunk::forward(context, p.decoder, Input(saved.sequence), saved.decoded);
    Predict::forward(context, p.decoder_pred, Input(saved.decoded), prediction);
    return saved;
  }

  // Assigns g.
  template <class Context, class Scalar>
  static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
                       const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> images, Mask mask,
                       const Saved<Scalar>& saved, Rows<const Scalar, out> d_prediction) {
    using Input = Rows<const Scalar, width>;
    using Latent = Rows<const Scalar, Encoder::width>;
    const auto frame = context.frame();
    const auto d_latent = context.template take<Encoder::width>(saved.latent.rows);
    {
      const auto decoder_frame = context.frame();
      const auto d_sequence = context.template take<width>(saved.sequence.rows);
      const auto d_embedded = context.template take<width>(saved.latent.rows);
      Predict::backward(context, p.decoder_pred, g.decoder_pred, Input(saved.decoded), nn::Nothing{}, d_prediction,
                        d_sequence);
      Trunk::backward(context, p.decoder, g.decoder, Input(saved.sequence), saved.decoder, Input(d_sequence),
                      d_sequence);
      unshuffle_tokens_backward<extra, patches, kept>(context.backend, Input(d_sequence), mask.keep, mask.restore,
                                                      d_embedded, g.mask_token);
      Embed::backward(context, p.decoder_embed, g.decoder_embed, Latent(saved.latent), nn::Nothing{}, Input(d_embedded),
                      d_latent);
      context.gradients_final(g.mask_token);
    }
    Visible::backward(context, p.encoder, g.encoder, images, mask.keep, saved.encoder, Latent(d_latent));
  }
};

}  // namespace mae

// The pixels of removed patches are predicted from the kept ones. percent of the patches are removed; the number of
// kept patches is rounded down (docs/method.md, 10.1). norm_pixels: the targets are the normalised pixels of a patch
// (10.3).
template <class Encoder_, class Decoder = mae::Decoder<512, 8, 16>, int percent = 75, bool norm_pixels = true,
          class Noise = mae::CounterBased>
struct MAE {
  static constexpr std::string_view name = "mae", encoder_name{};
  using Encoder = Encoder_;
  using Image = typename Encoder::Image;
  static constexpr int patches = Encoder::patches, kept = patches * (100 - percent) / 100, removed = patches - kept;
  static_assert(percent > 0 && percent < 100 && kept > 0,
                "tessera: MAE removes a share of the patches between 0 and 100 percent and keeps at least one patch");
  using Model = mae::Autoencoder<Encoder, Decoder, kept>;

  using Reads = data::Reads<data::Crops<1, Image>>;
  using Networks = objectives::Networks<Trained<Model>>;
  using Settings = NoSettings;
  [[nodiscard]] static constexpr auto augmentation() {
    return std::array{data::ViewAugmentation::crop_and_flip(0.2, data::Filter::bicubic)};
  }
  static void defaults(auto& recipe) {
    recipe.optimizer = "adamw";
    recipe.lr = 1.5e-4;
    recipe.weight_decay = 0.05;
    recipe.usual.beta2 = 0.95;  // of AdamW and LAMB
    recipe.epochs = 800;
    recipe.warmup_epochs = 40;
  }
  [[nodiscard]] static optim::Grouping groups(const Settings&) { return optim::no_decay_of_vectors(); }
  [[nodiscard]] static constexpr const auto& encoder(const auto& online) { return std::get<0>(online).encoder; }

  template <class Step>
  static void step(Step& s) {
    using Pixels = Rows<const typename Step::Scalar, Model::out>;
    constexpr int channels = Image::channels, size = Image::size, extra = Model::extra;
    auto& context = s.context;
    auto& backend = context.backend;
    const auto images = s.template crops<0>();
    const auto [p, g] = s.template trained<0>();
    const auto frame = s.frame();

    const mae::Mask mask{s.template take<kept, int>(images.rows).data, s.template take<patches, int>(images.rows).data};
    const auto targets = s.template take<Model::out>(images.rows * patches);
    const auto prediction = s.template take<Model::out>(images.rows * Model::tokens), d_prediction = prediction;
    Noise::template draw<patches, kept>(s, mask);
    const auto saved = Model::forward(context, p, images, mask, prediction);
    patch_targets<channels, size, Model::patch, norm_pixels>(backend, images, targets);
    backend.clear(1, s.loss());
    masked_mse<extra, patches, kept>(backend, Pixels(prediction), Pixels(targets), mask.restore, 1.0,
                                     s.all_images() * removed, s.loss(), d_prediction);
    Model::backward(context, p, g, images, mask, saved, Pixels(d_prediction));
  }
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
