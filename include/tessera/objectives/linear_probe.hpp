// Linear probe with random views: classifiers on the features of a frozen encoder, one for each learning rate
// (docs/method.md, 5.3). eval/linear_probe.hpp computes the features once, without random views, and is faster.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <tuple>

#include "tessera/data/augment.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/models/heads.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"
#include "tessera/optim/groups.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// The norm in front of the classifiers: none, or MAE's BatchNorm without weight and bias.
enum class ProbeNorm { none, batch_norm };

// Trains `classifiers_` linear classifiers at once; classifier k has the rate of the step times rate_of(settings, k).
// The encoder stays in evaluation mode. It has initial values: load a trained one before the first step, by
// load_encoder (train/pretrained.hpp) or trainer.resume(...). The loss is the sum of the classifiers' losses; the
// buffer `losses` has each of them, averaged over the batch of all ranks. Tensors: those of the encoder, head.0.weight,
// head.0.bias, head.1.weight, ..., and with a norm head.norm.running_mean, head.norm.running_var,
// head.norm.num_batches_tracked.
template <class Encoder_, int classes_, int classifiers_ = 8, ProbeNorm norm_ = ProbeNorm::none>
struct LinearProbe {
  static_assert(classifiers_ > 0, "tessera: a linear probe needs at least one classifier");
  static constexpr std::string_view name = "linear_probe", encoder_name{};
  using Encoder = Encoder_;
  using Image = typename Encoder::Image;
  static constexpr int classes = classes_, classifiers = classifiers_, width = Encoder::out;
  static constexpr bool normalizes = norm_ == ProbeNorm::batch_norm;
  static constexpr index smallest_batch = normalizes ? 2 : 1;
  using Norm = nn::BatchNorm<width, false, 1000000>;
  using Classifier = typename heads::Classifier<classes, nn::Normal<1, 100>>::template Layer<width>;

  struct Classifiers {
    template <class Leaf>
    struct Parameters {
      typename Norm::template Parameters<Leaf> norm;
      std::array<typename Classifier::template Parameters<Leaf>, classifiers> heads;
    };
    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& prefix) {
      Parameters<typename Visit::Leaf> p;
      if constexpr (normalizes) p.norm = Norm::declare(visit, prefix / "head" / "norm");
      for (int k = 0; k < classifiers; ++k)
        p.heads[static_cast<std::size_t>(k)] = Classifier::declare(visit, prefix / "head" / k);
      return p;
    }
  };

  using Reads = data::Reads<data::Crops<1, Image>, data::ClassLabels<classes>>;
  using Networks = objectives::Networks<Trained<Classifiers>, Frozen<Encoder>, Buffer<"losses", classifiers>>;
  struct Settings {
    Schedule lowest = 0.03, highest = 30;
    constexpr void visit(auto&& v) {
      v("probe-lowest", lowest, Range{1e-6, 1e6}, "factor of the learning rate of the first classifier");
      v("probe-highest", highest, Range{1e-6, 1e6}, "factor of the learning rate of the last classifier");
    }
  };
  [[nodiscard]] static constexpr auto augmentation() { return std::array{data::ViewAugmentation::crop_and_flip()}; }
  static void defaults(auto& recipe) {
    recipe.optimizer = "sgd";
    recipe.lr = 1;
    recipe.weight_decay = 0;
    recipe.epochs = 90;
    recipe.warmup_epochs = 0;
  }
  // The factor of the rate of classifier k: geometric from `lowest` to `highest`.
  [[nodiscard]] static double rate_of(const Settings& settings, int k) {
    const double low = settings.lowest.start, high = settings.highest.start;
    return classifiers == 1 ? low : low * std::pow(high / low, static_cast<double>(k) / (classifiers - 1));
  }
  [[nodiscard]] static optim::Grouping groups(const Settings& settings) {
    return [settings](const Entry& entry) {
      optim::Group group;
      const std::string_view tensor = entry.name.view(), head = "head.";
      int k = -1;
      if (entry.role == Role::trained && tensor.starts_with(head))
        std::from_chars(tensor.data() + head.size(), tensor.data() + tensor.size(), k);
      if (k >= 0) group.rate = rate_of(settings, k);
      return group;
    };
  }
  [[nodiscard]] static constexpr const auto& encoder(const auto& networks) { return std::get<1>(networks); }

  template <class Step>
  static void step(Step& s) {
    using Scalar = typename Step::Scalar;
    auto& context = s.context;
    const auto frame = s.frame();
    const Rows<const Scalar, width> features = featurize(s);
    const auto bound = s.template trained<0>();
    double* const losses = context.backend.arena().template take<double>(classifiers);
    context.backend.clear(classifiers, losses);
    for (std::size_t k = 0; k < classifiers; ++k)
      train(s, bound.p.heads[k], bound.g.heads[k], features, losses == nullptr ? nullptr : losses + k);
    if (!context.backend.planning()) context.communicator.all_reduce(context.backend, losses, index{classifiers});
    keep_losses(context.backend, classifiers, static_cast<const double*>(losses), 1.0 / context.communicator.size(),
                s.loss(), s.template buffer<0>());
  }

  // Assigns logits (images x classes) of classifier k. For evaluation: the context has Mode::evaluate. networks: as
  // for encoder().
  template <class Context, class Scalar>
  static void classify(Context& context, const auto& networks, int k, Rows<const Scalar, Image::values> images,
                       Rows<Scalar, classes> logits) {
    const auto frame = context.frame();
    const auto& p = std::get<0>(networks);
    const auto features = context.template take<width>(images.rows);
    Encoder::encode(context, encoder(networks), images, features);
    const auto input = normalized(context, p, Rows<const Scalar, width>(features));
    Classifier::forward(context, p.heads[static_cast<std::size_t>(k)], input, logits);
  }

 private:
  // The input of the classifiers (images x width): features, normalised if there is a norm.
  template <class Step>
  static Rows<const typename Step::Scalar, width> featurize(Step& s) {
    auto& context = s.context;
    const auto images = s.template crops<0>();
    const auto features = s.template take<width>(images.rows);
    context.mode = Mode::evaluate;
    Encoder::encode(context, s.template frozen<0>(), images, features);
    context.mode = Mode::train;
    return normalized(context, s.template trained<0>().p, Rows<const typename Step::Scalar, width>(features));
  }
  template <class Context, class Scalar, class Parameters>
  static Rows<const Scalar, width> normalized(Context& context, const Parameters& p, Rows<const Scalar, width> x) {
    if constexpr (normalizes) {
      const auto y = context.template take<width>(x.rows);
      Norm::forward(context, p.norm, x, y);
      return y;
    } else {
      return x;
    }
  }

  // Adds this rank's part of the loss of one classifier to *loss and assigns the gradients g.
  template <class Step, class Parameters, class Gradients, class Scalar>
  static void train(Step& s, const Parameters& p, const Gradients& g, Rows<const Scalar, width> features,
                    double* loss) {
    const auto frame = s.frame();
    const auto logits = s.template take<classes>(features.rows);
    const auto saved = Classifier::forward(s.context, p, features, logits);
    cross_entropy(s.context.backend, Rows<const Scalar, classes>(logits), s.labels(), nullptr, nullptr, s.all_images(),
                  loss, logits);
    Classifier::backward(s.context, p, g, features, saved, Rows<const Scalar, classes>(logits), Rows<Scalar, width>{});
  }
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
