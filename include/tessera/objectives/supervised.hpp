// Supervised training of a classifier, from initial values or from a pre-trained encoder (fine-tuning), as DeiT and MAE
// do it (Touvron et al., "Training data-efficient image transformers", arXiv 2012.12877; docs/method.md, 9).
#pragma once

#include <array>
#include <string_view>
#include <tuple>

#include "tessera/core/draws.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/models/heads.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// The random numbers of a supervised step, which depend on the seed, the step and the image alone.
struct CounterBased {
  // Assigns scales (2 depth x images), the factors of Context::branch_scales.
  template <class Step>
  static void drop_path(Step& s, int depth, Accumulator<typename Step::Scalar>* scales) {
    draw_drop_path(s.context.backend, s.number(), s.value(&Step::Settings::drop_path), s.first_image(), depth,
                   s.images(), scales);
  }
  // Assigns *mixing: how this step's batch is mixed.
  template <class Step>
  static void mixing(Step& s, Mixing* mixing) {
    using Settings = typename Step::Settings;
    draw_mixing(s.context.backend, s.number(), s.value(&Settings::mixup), s.value(&Settings::cutmix),
                s.value(&Settings::mixup_prob), s.value(&Settings::mixup_switch_prob),
                Step::Objective::Encoder::Image::size, mixing);
  }
};

// An encoder with a linear classifier. Tensors, without a prefix: those of the encoder, head.weight, head.bias. Mixup
// and CutMix pair the images of one rank (docs/method.md, 3.11), so results with them depend on the number of ranks.
template <class Encoder_, int classes_, class Draws = CounterBased>
struct Supervised {
  static constexpr std::string_view name = "supervised";
  static constexpr std::string_view encoder_name{};
  using Encoder = Encoder_;
  using Image = typename Encoder::Image;
  using Classifier = WithHead<Encoder, heads::Classifier<classes_>>;
  static constexpr int classes = classes_, channels = Image::channels, size = Image::size;

  using Reads = data::Reads<data::Crops<1, Image>, data::ClassLabels<classes>>;
  using Networks = objectives::Networks<Trained<Classifier>>;
  struct Settings {
    Schedule smoothing = 0.1, drop_path = 0.1, mixup = 0.8, cutmix = 1;
    Schedule mixup_prob = 1, mixup_switch_prob = 0.5, layer_decay = 1;
    constexpr void visit(auto&& v) {
      v("smoothing", smoothing, Range{0, 1}, "label smoothing");
      v("drop-path", drop_path, Range{0, 0.99}, "rate of drop path in the last block");
      v("mixup", mixup, Range{0, 1e3}, "alpha of mixup; 0: none");
      v("cutmix", cutmix, Range{0, 1e3}, "alpha of CutMix; 0: none");
      v("mixup-prob", mixup_prob, Range{0, 1}, "probability that a batch is mixed");
      v("mixup-switch-prob", mixup_switch_prob, Range{0, 1}, "probability of CutMix where mixup is on as well");
      v("layer-decay", layer_decay, Range{1e-3, 1},
        "factor of the learning rate from layer to layer, from the head on");
    }
  };
  [[nodiscard]] static constexpr auto augmentation() { return std::array{data::ViewAugmentation::crop_and_flip()}; }
  // The recipe of DeiT (docs/method.md, 9.3); lr is its 5e-4 B / 512 as a base rate for B / 256.
  static void defaults(auto& recipe) {
    recipe.optimizer = "adamw";
    recipe.lr = 2.5e-4;
    recipe.weight_decay = 0.05;
    recipe.epochs = 300;
    recipe.warmup_epochs = 5;
  }
  [[nodiscard]] static optim::Grouping groups(const Settings& settings) {
    if constexpr (requires { Encoder::depth; })
      return optim::layer_decay(Encoder::depth, settings.layer_decay.start, "");
    else
      return optim::no_decay_of_vectors();
  }
  [[nodiscard]] static constexpr const auto& encoder(const auto& online) { return std::get<0>(online).encoder; }

  template <class Step>
  static void step(Step& s) {
    using Scalar = typename Step::Scalar;
    using Logits = Rows<const Scalar, classes>;
    auto& context = s.context;
    auto& backend = context.backend;
    const auto images = s.template crops<0>();
    const auto [p, g] = s.template trained<0>();
    const auto frame = s.frame();

    drop_paths(s);
    Mixing* const mixing = backend.arena().template take<Mixing>(1);
    const auto mixed = s.template take<Image::values>(images.rows);
    Draws::mixing(s, mixing);
    mix_images<channels, size>(backend, static_cast<const Mixing*>(mixing), images, mixed);

    const Rows<const Scalar, Image::values> input = mixed;
    const auto logits = s.template take<classes>(images.rows), d_logits = s.template take<classes>(images.rows);
    const auto saved = Classifier::forward(context, p, input, logits);
    backend.clear(1, s.loss());
    cross_entropy(backend, Logits(logits), s.labels(), s.value(&Settings::smoothing),
                  mixing == nullptr ? nullptr : &mixing->lambda, s.all_images(), s.loss(), d_logits);
    Classifier::backward(context, p, g, input, saved, Logits(d_logits));
  }

  // Assigns logits (images x classes). For evaluation: the context has Mode::evaluate. p: the tensors of Classifier.
  template <class Context, class Scalar>
  static void classify(Context& context, const typename Classifier::template Parameters<Parameter<Scalar>>& p,
                       Rows<const Scalar, Image::values> images, Rows<Scalar, classes> logits) {
    Classifier::encode(context, p, images, logits);
  }

 private:
  // Draws the factors of the residual branches, if the encoder has blocks; they are valid until the frame of the step
  // ends.
  template <class Step>
  static void drop_paths(Step& s) {
    if constexpr (requires { Encoder::depth; }) {
      const auto scales =
          s.template take<1, Accumulator<typename Step::Scalar>>(2 * index{Encoder::depth} * s.images());
      Draws::drop_path(s, Encoder::depth, scales.data);
      s.context.drop_path = true;
      s.context.branch_scales = scales.data;
    }
  }
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
