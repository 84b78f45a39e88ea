// SimCLR (Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations",
// arXiv 2002.05709; docs/method.md, 8).
#pragma once

#include <string_view>
#include <tuple>

#include "tessera/data/augment.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/models/heads.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// The rows of a BatchNorm batch: those of both views, as in the authors' code, or those of each view.
enum class NormBatch { both_views, each_view };

// Each view is compared with all other views of the batch; its positive is the other view of its image. Trained:
// encoder and projector (base_encoder).
template <class Encoder_, class Projector = heads::Mlp<3, 4096, 256>, NormBatch norm_batch = NormBatch::both_views>
struct SimCLR {
  static constexpr std::string_view name = "simclr", encoder_name = "base_encoder";
  using Encoder = Encoder_;
  using Branch = WithHead<Encoder, Projector>;
  static constexpr int out = Branch::out, views = 2;
  static constexpr index smallest_batch = 2;  // images on all ranks; a view needs a negative

  using Reads = data::Reads<data::Crops<views, typename Encoder::Image>>;
  using Networks = objectives::Networks<Trained<Named<"base_encoder", Branch>>>;
  struct Settings {
    Schedule temperature = 0.2;
    constexpr void visit(auto&& v) { v("temperature", temperature, Range{1e-3, 1e3}, "softmax temperature"); }
  };
  // The views of MoCo v3, and the base rate and decay that its paper gives for SimCLR on a ViT (docs/method.md, 3.8 and
  // 8.3).
  [[nodiscard]] static constexpr auto augmentation() { return data::moco_v3_views(0.08); }
  static void defaults(auto& recipe) {
    recipe.lr = 2e-4;
    recipe.weight_decay = 0.1;
  }
  [[nodiscard]] static constexpr const auto& encoder(const auto& online) { return std::get<0>(online).encoder; }

  template <class Step>
  static void step(Step& s) {
    using Features = Rows<const typename Step::Scalar, out>;
    auto& context = s.context;
    context.views = norm_batch == NormBatch::both_views ? 1 : views;
    const auto images = s.template crops<0>();
    const auto [p, g] = s.template trained<0>();
    const auto frame = s.frame();

    const auto z = s.template take<out>(images.rows), dz = s.template take<out>(images.rows);
    const auto saved = Branch::forward(context, p, images, z);
    contrast(s, Features(z), dz);
    Branch::backward(context, p, g, images, saved, Features(dz));
  }

 private:
  // Assigns the loss, NT-Xent, and dz, its gradient with respect to z (docs/method.md, 8.2; core/nt_xent.hpp). Gathers
  // the unit rows and then the log-sums of all ranks: view 1 in the order of ranks, then view 2.
  template <class Step, class Scalar>
  static void contrast(Step& s, Rows<const Scalar, out> z, Rows<Scalar, out> dz) {
    using Sums = Rows<const Accumulator<Scalar>, 1>;
    using Features = Rows<const Scalar, out>;
    const auto frame = s.frame();
    auto& backend = s.context.backend;
    const double* const temperature = s.value(&Settings::temperature);
    const index batch = s.images(), all = s.all_images();
    const auto first = [&](index view) { return view * all + s.first_image(); };
    const auto unit_z = s.template take<out>(views * all);
    const auto log_sums = s.template take<1, Accumulator<Scalar>>(views * all);
    const auto inverse_norms = s.template take<1, Accumulator<Scalar>>(z.rows);

    for (index view = 0; view < views; ++view)
      normalize_rows(backend, z.part(view * batch, batch), unit_z.part(first(view), batch),
                     inverse_norms.part(view * batch, batch));
    gather(s, unit_z);
    backend.clear(1, s.loss());
    for (index view = 0; view < views; ++view)
      nt_xent_forward(backend, Features(unit_z), temperature, first(view), log_sums.part(first(view), batch), s.loss());
    gather(s, log_sums);
    for (index view = 0; view < views; ++view) {
      const auto d = dz.part(view * batch, batch);
      nt_xent_backward(backend, Features(unit_z), temperature, first(view), Sums(log_sums), d);
      normalize_rows_backward(backend, Features(unit_z.part(first(view), batch)),
                              Sums(inverse_norms.part(view * batch, batch)), Features(d), d);
    }
  }

  template <class Step, class Element, int columns>
  static void gather(Step& s, Rows<Element, columns> rows) {
    for (index view = 0; view < views; ++view) s.start_gathering(rows.part(view * s.all_images(), s.all_images()));
    s.join();
  }
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
