// A whole trainer for an objective of one's own: flags, progress, k-NN, checkpoints, report. 30_objective --help.
//
// Two views of an image shall have similar projections and different images different ones: InfoNCE between the views,
// with no momentum encoder and no predictor.
#include "tessera/models/heads.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/programs/pretrain.hpp"

namespace ts = tessera;

template <class Encoder_, class Projector>
struct Agreement {
  // The library must know a name, what a step reads, which tensors are trained, which numbers may be turned.
  static constexpr std::string_view name = "agreement", encoder_name = "base_encoder";
  using Encoder = Encoder_;
  using Branch = ts::WithHead<Encoder, Projector>;
  using Reads = ts::data::Reads<ts::data::Crops<2, typename Encoder::Image>>;
  using Networks = ts::objectives::Networks<ts::objectives::Trained<ts::objectives::Named<"base_encoder", Branch>>>;
  struct Settings {
    ts::Schedule temperature = 0.2;
    constexpr void visit(auto&& v) { v("temperature", temperature, ts::Range{1e-3, 1e3}, "softmax temperature"); }
  };
  static constexpr ts::index smallest_batch = 2;  // for BatchNorm
  static constexpr auto augmentation() { return ts::data::moco_v3_views(0.3); }
  static constexpr const auto& encoder(const auto& online) { return std::get<0>(online).encoder; }

  // One step: forward, loss, backward. It assigns *s.loss() and every gradient.
  template <class Step>
  static void step(Step& s) {
    using Scalar = typename Step::Scalar;
    constexpr int out = Branch::out;
    using Features = ts::Rows<const Scalar, out>;
    auto& context = s.context;
    auto& backend = context.backend;
    const auto frame = s.frame();
    const auto images = s.crops();  // view 1 of all images, then view 2
    const auto [p, g] = s.trained();
    context.views = 2;  // each view is a batch of its own for BatchNorm

    const auto z = s.template take<out>(images.rows), unit = s.template take<out>(images.rows);
    const auto dz = s.template take<out>(images.rows);
    const auto norms = s.template take<1, ts::Accumulator<Scalar>>(images.rows);
    const auto saved = Branch::forward(context, p, images, z);
    normalize_rows(backend, Features(z), unit, norms);
    backend.clear(1, s.loss());
    const ts::index batch = s.images();
    for (int view = 0; view < 2; ++view)  // each view against the other, which counts as fixed
      info_nce(backend, Features(unit.part(view * batch, batch)), Features(unit.part((1 - view) * batch, batch)),
               {.weight = 0.5}, s.value(&Settings::temperature), 0, batch, s.loss(), dz.part(view * batch, batch));
    normalize_rows_backward(backend, Features(unit), ts::Rows<const ts::Accumulator<Scalar>, 1>(norms), Features(dz),
                            dz);
    Branch::backward(context, p, g, images, saved, Features(dz));
  }
};

using Encoder = ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>>;

int main(int argc, char** argv) {
  return ts::programs::pretrain<Agreement<Encoder, ts::heads::Mlp<3, 256, 64>>>(argc, argv);
}
