// Models and training steps against the oracle's fixtures, on any backend.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "support/fixture.hpp"
#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/optim/schedules.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::test {

// The reference's sizes: 24 x 24 images, patch 6, width 20, 2 blocks, 5 heads, heads of 36 hidden and 16 output
// features.
template <class Embed>
using ReferenceObjective = objectives::MoCoV3<VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<Embed>>,
                                              heads::Mlp<3, 36, 16>, heads::Mlp<2, 36, 16>>;
using Learned = ReferenceObjective<embed::Patches>;
using Frozen = ReferenceObjective<embed::FrozenPatches>;

// A trainer that starts where a fixture starts; with its rank's rows of the images, `batch` of them.
template <class Objective, class Backend, class Communicator = comm::Serial>
struct Session {
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using ThisTrainer = TrainerOn<Objective, Backend, Communicator>;
  using Student = OnlineLayout<Objective>;
  using Teacher = AverageLayout<Objective>;

  template <class Rule>
  Session(Backend& on, const Fixture& from, index batch, Rule rule, Communicator ranks = {})
      : backend(on),
        fixture(from),
        communicator(std::move(ranks)),
        trainer(backend, communicator, rule, {.batch = batch}),
        held(backend, views(0)) {
    load<Student>(trainer.networks().online());
    load<Teacher>(trainer.networks().template average<0>());
    trainer.resume([](const auto&) { return 0L; });
  }

  [[nodiscard]] auto images(index t = 0) {
    held.assign(views(t));
    return batch_of<Objective>(held.data(), trainer.batch());
  }

  double step(index t, double learning_rate, double momentum) {
    StepSettings<Objective> settings{.learning_rate = learning_rate};
    settings.settings.temperature = fixture.number("tau");
    settings.settings.momentum = momentum;
    return trainer.step(images(t), settings);
  }

  [[nodiscard]] std::vector<Master> gradient() { return downloaded(backend, trainer.gradient(), Student::parameters); }
  [[nodiscard]] std::vector<Master> student() { return weights_of(trainer); }

  int expect_gradient(double bound = tolerance<Master>) {
    return expect_entries_close<Master>(fixture, Student::entries, "grad.", gradient().data(), nullptr, bound);
  }
  void expect_after(double bound) {
    expect_network<Student>(trainer.networks().online(), true, bound);
    expect_network<Teacher>(trainer.networks().template average<0>(), true, bound);
  }
  void expect_statistics(double bound = tolerance<Master>) {
    expect_network<Student>(trainer.networks().online(), false, bound);
    expect_network<Teacher>(trainer.networks().template average<0>(), false, bound);
  }

  Backend& backend;
  const Fixture& fixture;
  Communicator communicator;
  ThisTrainer trainer;

 private:
  // The stacked views x1, x2 of step t; the fixture holds the images of all ranks for every step.
  [[nodiscard]] std::vector<double> views(index t) const {
    const index count = trainer.batch() * Objective::Encoder::in;
    std::vector<double> stacked;
    for (const char* view : {"x1", "x2"}) {
      const auto first = fixture.tensor(view).values.begin() + (t * communicator.size() + communicator.rank()) * count;
      stacked.insert(stacked.end(), first, first + count);
    }
    return stacked;
  }

  template <class Table, class Network>
  void load(const Network& network) {
    std::vector<Master> values(static_cast<std::size_t>(Table::parameters)),
        more(static_cast<std::size_t>(Table::statistics));
    fixture.load(std::span<const Entry>(Table::entries), "before.", values.data(), more.data());
    network.assign(backend, values.data(), more.data());
  }

  template <class Table, class Network>
  void expect_network(const Network& network, bool parameters, double bound) {
    const auto more = downloaded(backend, network.statistics(), Table::statistics);
    const auto values = downloaded(backend, static_cast<const Master*>(network.parameters()), Table::parameters);
    expect_entries_close<Master>(fixture, Table::entries, "after.", parameters ? values.data() : nullptr, more.data(),
                                 bound);
  }

  Held<Scalar, Backend> held;
};

// One step of MoCo v3: loss, all gradients, and in double both networks after it.
template <class Objective, class Backend>
void check_step(Backend& backend, const char* name) {
  using Master = Accumulator<typename Backend::Scalar>;
  const Fixture fixture(name);
  Session<Objective, Backend> run(backend, fixture, fixture.tensor("x1").shape[0],
                                  optim::AdamW{.weight_decay = fixture.number("weight_decay")});
  EXPECT_NEAR(run.step(0, fixture.number("lr"), fixture.number("m")), fixture.tensor("loss").values[0],
              tolerance<Master>);
  EXPECT_GT(run.expect_gradient(), 30);
  run.expect_statistics();
  // Where a gradient is zero in exact arithmetic, AdamW's first step divides the rounding in it (a few 1e-15, in the
  // reference as well as here) by epsilon = 1e-8: lr * 4e-7 of difference mean nothing. In float all of it would.
  if constexpr (std::is_same_v<Master, double>) run.expect_after(1e-9 + fixture.number("lr") * 4e-7);
}

// Eight steps with the per-iteration schedules.
template <class Backend, class Rule>
void check_trajectory(Backend& backend, const char* name, Rule rule, double bound) {
  const Fixture fixture(name);
  Session<Frozen, Backend> run(backend, fixture, fixture.tensor("x1").shape[1], rule);
  const double warmup = fixture.number("warmup_epochs"), epochs = fixture.number("epochs");
  for (index t = 0; t < static_cast<index>(fixture.number("steps")); ++t) {
    const auto at = static_cast<std::size_t>(t);
    const double epoch = static_cast<double>(t) / fixture.number("steps_per_epoch");
    const double lr = optim::learning_rate(fixture.number("base_lr"), epoch, warmup, epochs);
    const double m = cosine(fixture.number("momentum"), 1).at(epoch, epochs);
    EXPECT_NEAR(lr, fixture.tensor("lr").values[at], 1e-15);
    EXPECT_NEAR(m, fixture.tensor("m").values[at], 1e-15);
    EXPECT_NEAR(run.step(t, lr, m), fixture.tensor("loss").values[at], bound) << "step " << t;
  }
  run.expect_after(bound);
}

// The variants of docs/method.md, 2.4 that have a fixture.
namespace variant {

struct Plain {
  static constexpr const char* name = "vit";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5>;
};
struct Gap {
  static constexpr const char* name = "vit_gap";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<position::None, pooling::Mean>>;
};
struct GapNormLearned {
  static constexpr const char* name = "vit_gap_norm_learned";
  using Model =
      VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<position::Learned, pooling::MeanNorm>>;
};
struct MlpBatchNorm {
  static constexpr const char* name = "vit_mlp_batchnorm";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<mlp_norm::BatchNorm>>;
};
struct ConvStem {
  static constexpr const char* name = "vit_conv_stem";
  using Model = VisionTransformer<image<32>, patch<16>, 32, 2, 4, 4, vit::policies<embed::ConvStem>>;
};

}  // namespace variant

// A variant forward, backward and in evaluation, with its attention weights and tokens.
template <class Variant, class Backend>
void check_variant(Backend& backend) {
  using Model = typename Variant::Model;
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Table = Layout<Model>;
  const Fixture fixture(Variant::name);
  const auto entries = std::span<const Entry>(Table::entries);
  comm::Serial communicator;
  std::vector<Master> parameters(static_cast<std::size_t>(Table::parameters)),
      statistics(static_cast<std::size_t>(Table::statistics));
  fixture.load(entries, "before.", parameters.data(), statistics.data());
  const Network<Backend, Model> network;
  network.assign(backend, parameters.data(), statistics.data());
  const typename Backend::template Buffer<Master> gradients(Table::parameters);
  const auto p = network.bind();
  const auto g = bind<Model>(gradients.data(), nullptr);

  const index images = fixture.tensor("x").shape[0], rows = images * Model::tokens;
  const Held<Scalar, Backend> x(backend, fixture.tensor("x").values),
      d_features(backend, fixture.tensor("grad_features").values), features(backend, images * Model::out),
      d_images(backend, images * Model::in), tokens(backend, rows * Model::width),
      weights(backend, rows * Model::heads * Model::tokens);
  const Rows<const Scalar, Model::in> input{x.data(), images};
  const Rows<Scalar, Model::out> output{features.data(), images};

  const auto pass = [&] {
    Context<Backend, comm::Serial> context{backend, communicator};
    const auto frame = context.frame();
    const auto saved = Model::forward(context, p, input, output);
    Model::backward(context, p, g, input, saved, Rows<const Scalar, Model::out>{d_features.data(), images},
                    Rows<Scalar, Model::in>{d_images.data(), images});
  };
  const auto evaluate = [&] {
    Context<Backend, comm::Serial> context{backend, communicator, Mode::evaluate};
    Model::encode(context, p, input, output);
    Model::encode_attention(context, p, input, 0, Rows<Scalar, Model::tokens>{weights.data(), rows * Model::heads});
  };
  const auto encode_tokens = [&] {
    Context<Backend, comm::Serial> context{backend, communicator};
    Model::Tokens::encode(context, p, input, Rows<Scalar, Model::width>{tokens.data(), rows});
  };
  const auto expect = [&](const char* what, const auto& held) {
    expect_close(what, held.values().data(), fixture.tensor(what));
  };
  pass();
  evaluate();
  encode_tokens();
  backend.arena().commit();
  network.refresh(backend);

  pass();
  expect("features", features);
  expect("grad_x", d_images);
  EXPECT_GT(expect_entries_close<Master>(fixture, entries, "grad.",
                                         downloaded(backend, gradients.data(), Table::parameters).data(), nullptr),
            20);
  expect_entries_close<Master>(fixture, entries, "after.", nullptr,
                               downloaded(backend, network.statistics(), Table::statistics).data());
  evaluate();
  expect_close("features_eval", features.values().data(), fixture.tensor("features_eval"));
  expect("block0_attention", weights);
  encode_tokens();
  expect("tokens", tokens);
}

}  // namespace tessera::test
