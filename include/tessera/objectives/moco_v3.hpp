// MoCo v3 (Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", arXiv 2104.02057;
// docs/method.md, 7).
#pragma once

#include <array>
#include <string_view>

#include "tessera/core/info_nce.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/reads.hpp"
#include "tessera/models/heads.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace objectives {

// The predictions of one view are compared with the momentum encoder's projections of the other view. Trained: encoder
// and projector (base_encoder), and predictor. momentum_encoder is the moving average of base_encoder.
template <class Encoder_, class Projector = heads::Mlp<3, 4096, 256>, class Predictor = heads::Mlp<2, 4096, 256>>
struct MoCoV3 {
  static_assert(Projector::out == Predictor::out,
                "tessera: MoCo v3 compares predictions with projections: both heads must have the same output width");
  static constexpr std::string_view name = "moco_v3", encoder_name = "base_encoder";
  using Encoder = Encoder_;
  using Branch = WithHead<Encoder, Projector>;
  using PredictorLayer = typename Predictor::template Layer<Branch::out>;
  static constexpr int out = Branch::out, views = 2;
  static constexpr index smallest_batch = 2;  // images on all ranks; BatchNorm needs two rows

  struct Online {
    template <class Leaf>
    struct Parameters {
      typename Branch::template Parameters<Leaf> base_encoder;
      typename PredictorLayer::template Parameters<Leaf> predictor;
    };
    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& prefix) {
      Parameters<typename Visit::Leaf> p;
      p.base_encoder = Branch::declare(visit, prefix / "base_encoder");
      p.predictor = PredictorLayer::declare(visit, prefix / "predictor");
      return p;
    }
  };

  using Reads = data::Reads<data::Crops<views, typename Encoder::Image>>;
  using Networks = objectives::Networks<Trained<Online>, Average<Named<"momentum_encoder", Branch>>>;
  struct Settings {
    Schedule temperature = 0.2, momentum = constant_or_cosine(0.99, 1);
    constexpr void visit(auto&& v) {
      v("moco-m", momentum, Range{0, 1}, "momentum of the momentum encoder");
      v("moco-t", temperature, Range{1e-3, 1e3}, "softmax temperature");
    }
  };
  [[nodiscard]] static constexpr auto augmentation() { return data::moco_v3_views(0.08); }
  [[nodiscard]] static constexpr const auto& encoder(const auto& online) {
    return std::get<0>(online).base_encoder.encoder;
  }

  // Moving average, keys, queries, loss, gradients (docs/method.md, 7.1). The keys of all ranks are gathered while the
  // queries are computed.
  template <class Step>
  static void step(Step& s) {
    using Scalar = typename Step::Scalar;
    using Features = Rows<const Scalar, out>;
    auto& context = s.context;
    context.views = views;
    const auto images = s.template crops<0>();
    const auto [p, g] = s.template trained<0>();
    const auto frame = s.frame();

    s.move_average(s.value(&Settings::momentum));
    const auto keys = s.template take<out>(images.rows * context.communicator.size());
    encode_keys(s, keys);

    const auto z = s.template take<out>(images.rows), q = s.template take<out>(images.rows);
    const auto saved_branch = Branch::forward(context, p.base_encoder, images, z);
    const auto saved_predictor = PredictorLayer::forward(context, p.predictor, Features(z), q);

    s.join();
    const auto dq = s.template take<out>(images.rows), dz = s.template take<out>(images.rows);
    contrast(s, Features(q), Features(keys), dq);
    PredictorLayer::backward(context, p.predictor, g.predictor, Features(z), saved_predictor, Features(dq), dz);
    Branch::backward(context, p.base_encoder, g.base_encoder, images, saved_branch, Features(dz));
  }

 private:
  // Starts to gather keys (views*all_images x out), the unit keys of all ranks: view 1 in the order of ranks, then
  // view 2. They are complete after join().
  template <class Step, class Scalar>
  static void encode_keys(Step& s, Rows<Scalar, out> keys) {
    const auto frame = s.frame();
    const auto images = s.template crops<0>();
    const index batch = s.images(), all = s.all_images();
    const auto k = s.template take<out>(images.rows);
    const auto inverse_norms = s.template take<1, Accumulator<Scalar>>(batch);
    Branch::encode(s.context, s.template average<0>(), images, k);
    for (index view = 0; view < views; ++view)
      normalize_rows(s.context.backend, Rows<const Scalar, out>(k.part(view * batch, batch)),
                     keys.part(view * all + s.first_image(), batch), inverse_norms);
    for (index view = 0; view < views; ++view) s.start_gathering(keys.part(view * all, all));
  }

  // 2 tau times the cross entropy (docs/method.md, 7.2).
  static constexpr InfoNce loss_term{.weight = 2, .times_temperature = true};

  // Assigns the loss ctr(q1, k2) + ctr(q2, k1) and dq, its gradient with respect to q. keys has unit rows.
  template <class Step, class Scalar>
  static void contrast(Step& s, Rows<const Scalar, out> q, Rows<const Scalar, out> keys, Rows<Scalar, out> dq) {
    const auto frame = s.frame();
    auto& backend = s.context.backend;
    const index batch = s.images(), all = s.all_images();
    const auto unit_q = s.template take<out>(q.rows);
    const auto inverse_norms = s.template take<1, Accumulator<Scalar>>(q.rows);
    normalize_rows(backend, q, unit_q, inverse_norms);
    backend.clear(1, s.loss());
    for (index view = 0; view < views; ++view)
      info_nce(backend, Rows<const Scalar, out>(unit_q.part(view * batch, batch)), keys.part((1 - view) * all, all),
               loss_term, s.value(&Settings::temperature), s.first_image(), all, s.loss(),
               dq.part(view * batch, batch));
    normalize_rows_backward(backend, Rows<const Scalar, out>(unit_q), Rows<const Accumulator<Scalar>, 1>(inverse_norms),
                            Rows<const Scalar, out>(dq), dq);
  }
};

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
