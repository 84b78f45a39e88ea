// MoCo v3: contrast of two views, with a momentum encoder and a predictor (docs/method.md, 7).
#pragma once

#include <type_traits>

#include "tessera/comm/collective.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/ssl/heads.hpp"

namespace tessera::inline TESSERA_ABI::ssl {

// What may change from step to step.
struct MoCoV3Coefficients {
  double temperature = 0.2;  // tau
  double momentum = 0.99;    // m, of the momentum encoder
};

// What is trained is the encoder with its projector (`base_encoder`) and the predictor; the momentum encoder has the
// base encoder's layout, which is the first part of the whole: one loop over contiguous memory follows it.
template <class Encoder_, class Projector = ssl::Projector<>, class Predictor = ssl::Predictor<>>
struct MoCoV3 {
  static_assert(Projector::out == Predictor::out,
                "tessera: MoCo v3 compares predictions with projections: both heads must have the same output width");
  static constexpr const char* name = "moco_v3";
  static constexpr int views = 2;
  using Encoder = Encoder_;
  using Branch = WithHead<Encoder, Projector>;
  using PredictorLayer = typename Predictor::template Layer<Branch::out>;
  using Coefficients = MoCoV3Coefficients;
  static constexpr int in = Branch::in, out = Branch::out;

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

  // The momentum encoder's tensors under their own names, at the base encoder's offsets.
  struct Teacher {
    template <class Leaf>
    using Parameters = typename Branch::template Parameters<Leaf>;
    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& prefix) {
      return Branch::declare(visit, prefix / "momentum_encoder");
    }
  };

  // What a step leaves behind besides loss and gradients, valid until the caller's frame ends.
  template <class Scalar>
  struct Result {
    Rows<Scalar, out> q, k;  // predictions and keys of view 1, then of view 2
  };

  // The flat buffers of the two networks. gradient has the student's layout.
  template <class Scalar>
  struct State {
    Parameter<Scalar> student;
    Accumulator<Scalar>* gradient;
    Parameter<Scalar> teacher;
    Accumulator<Scalar>* student_statistics;
    Accumulator<Scalar>* teacher_statistics;
  };

  // Forward and backward of one step on the stacked views (2B images: view 1, then view 2) of this rank: momentum
  // encoder moved towards the weights as they are; keys, which start to travel to all ranks; queries; loss; gradients
  // of every trained tensor, which are assigned: this rank's share of the loss and of the gradients, to be summed over
  // the ranks. (The reference computes queries before keys; neither depends on the other.) The optimizer's step is the
  // caller's. Coefficients and *loss, which is assigned, are in memory of the backend.
  template <class Context, class Scalar>
  static Result<Scalar> step(Context& context, const State<Scalar>& state, Rows<const Scalar, in> images,
                             const Coefficients* coefficients, double* loss) {
    static_assert(Context::shared || std::is_same_v<typename Context::Communicator, comm::Serial>,
                  "tessera: keys of several ranks travel by an exchange: give the context a comm::Replicated or "
                  "comm::ZeroStage1, as Trainer does");
    const auto p = bind<MoCoV3>(state.student, state.student_statistics);
    const auto g = bind<MoCoV3>(state.gradient, nullptr);
    const auto teacher = bind<Teacher>(state.teacher, state.teacher_statistics);
    context.mode = Mode::train;
    context.views = views;

    Result<Scalar> result{context.template take<out>(images.rows), context.template take<out>(images.rows)};
    const auto frame = context.frame();
    const Accumulator<Scalar>* const student = state.student;
    context.over_parameters(Layout<Teacher>::parameters, state.teacher, [&](index first, index size) {
      moving_average(context.backend, size, &coefficients->momentum, student + first, state.teacher + first);
    });
    Branch::encode(context, teacher, images, result.k);
    const auto keys = context.template take<out>(images.rows * context.communicator.size());
    gather_keys(context, Rows<const Scalar, out>(result.k), keys);

    const auto z = context.template take<out>(images.rows);
    const auto saved_branch = Branch::forward(context, p.base_encoder, images, z);
    const auto saved_predictor = PredictorLayer::forward(context, p.predictor, Rows<const Scalar, out>(z), result.q);

    if constexpr (Context::shared) context.exchange->join();
    const auto dq = context.template take<out>(images.rows);
    contrast(context, Rows<const Scalar, out>(result.q), Rows<const Scalar, out>(keys), &coefficients->temperature,
             loss, dq);
    const auto dz = context.template take<out>(images.rows);
    PredictorLayer::backward(context, p.predictor, g.predictor, Rows<const Scalar, out>(z), saved_predictor,
                             Rows<const Scalar, out>(dq), dz);
    Branch::backward(context, p.base_encoder, g.base_encoder, images, saved_branch, Rows<const Scalar, out>(dz));
    return result;
  }

 private:
  // keys receives the unit rows of k from all ranks: those of view 1 in the order of ranks, then those of view 2. They
  // are there when the exchange has been joined.
  template <class Context, class Scalar>
  static void gather_keys(Context& context, Rows<const Scalar, out> k, Rows<Scalar, out> keys) {
    const auto frame = context.frame();
    const index batch = k.rows / views, all = keys.rows / views, mine = batch * context.communicator.rank();
    const auto inverse = context.template take<1, Accumulator<Scalar>>(batch);
    for (index view = 0; view < views; ++view)
      normalize_rows(context.backend, k.part(view * batch, batch), keys.part(view * all + mine, batch), inverse);
    if constexpr (Context::shared) {
      const comm::Cuts parts = context.exchange->equal_parts(batch * out);
      context.exchange->beside([keys, all, parts](auto& lane, auto& communicator) {
        for (index view = 0; view < views; ++view) communicator.all_gather(lane, keys.row(view * all), parts);
      });
    }
  }

  // *loss = this rank's share of ctr(q1, k2) + ctr(q2, k1) of docs/method.md, 7.2, and dq its gradient with respect to
  // q. keys have unit rows. temperature and loss are in memory of the backend.
  template <class Context, class Scalar>
  static void contrast(Context& context, Rows<const Scalar, out> q, Rows<const Scalar, out> keys,
                       const double* temperature, double* loss, Rows<Scalar, out> dq) {
    const auto frame = context.frame();
    const index batch = q.rows / views, all = keys.rows / views;
    const auto unit_q = context.template take<out>(q.rows);
    const auto inverse_q = context.template take<1, Accumulator<Scalar>>(q.rows);
    normalize_rows(context.backend, q, unit_q, inverse_q);
    context.backend.clear(1, loss);
    for (index view = 0; view < views; ++view)
      contrastive_loss(context.backend, Rows<const Scalar, out>(unit_q.part(view * batch, batch)),
                       keys.part((1 - view) * all, all), temperature, batch * context.communicator.rank(), all, loss,
                       dq.part(view * batch, batch));
    normalize_rows_backward(context.backend, Rows<const Scalar, out>(unit_q),
                            Rows<const Accumulator<Scalar>, 1>(inverse_q), Rows<const Scalar, out>(dq), dq);
  }
};

}  // namespace tessera::inline TESSERA_ABI::ssl
