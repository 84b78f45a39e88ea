// Supervised training with the draws of a fixture, on any backend.
#pragma once

#include <cstddef>
#include <vector>

#include "support/study.hpp"
#include "tessera/core/draws.hpp"
#include "tessera/objectives/supervised.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {

// A policy of Supervised whose draws are in memory of the backend, where a StepDraws has put them.
template <class Scalar>
struct Given {
  static inline const Accumulator<Scalar>* scales = nullptr;
  static inline const Mixing* mixing = nullptr;
};
struct GivenDraws {
  template <class Step>
  static void drop_path(Step& s, int depth, Accumulator<typename Step::Scalar>* scales) {
    s.context.backend.copy(2 * depth * s.images(), Given<typename Step::Scalar>::scales, scales);
  }
  template <class Step>
  static void mixing(Step& s, Mixing* mixing) {
    s.context.backend.copy(1, Given<typename Step::Scalar>::mixing, mixing);
  }
};

// Those of step t: mixup in even steps, CutMix in odd ones.
[[nodiscard]] inline Mixing mixing_in(const Fixture& fixture, index t, int size) {
  const auto at = static_cast<std::size_t>(t);
  const double lambda = fixture.tensor("lam").values[at];
  const auto& centre = fixture.tensor("centre").values;
  if (t % 2 == 0) return Mixing::mixup(lambda);
  return Mixing::cutmix(lambda, size, static_cast<int>(centre[2 * at]), static_cast<int>(centre[2 * at + 1]));
}

// The fixture's draws (steps x depth x 2 x images) of step t as factors of branches.
template <class Scalar>
[[nodiscard]] std::vector<Scalar> scales_in(const Fixture& fixture, index t) {
  const auto& draws = fixture.tensor("draws");
  const auto depth = static_cast<std::size_t>(draws.shape[1]), images = static_cast<std::size_t>(draws.shape[3]);
  const double* const of_step = draws.values.data() + static_cast<std::size_t>(t) * depth * 2 * images;
  std::vector<Scalar> scales;
  for (std::size_t i = 0; i < depth * 2 * images; ++i)
    scales.push_back(static_cast<Scalar>(drop_path_scale(fixture.number("drop_path"), static_cast<int>(i / images / 2),
                                                         static_cast<int>(depth), of_step[i])));
  return scales;
}

// The draws that GivenDraws gives.
template <class Backend>
class StepDraws {
 public:
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;

  StepDraws(const Backend& backend, const Fixture& fixture)
      : backend_(backend), scales_(backend, static_cast<index>(scales_in<Master>(fixture, 0).size())) {
    Given<Scalar>::scales = scales_.data();
    Given<Scalar>::mixing = mixing_.data();
  }
  void set(const Fixture& fixture, index t, const Mixing& mixing) {
    const auto scales = scales_in<double>(fixture, t);
    scales_.assign(scales);
    backend_.upload(1, &mixing, mixing_.data());
    backend_.wait();
  }

 private:
  const Backend& backend_;
  Held<Master, Backend> scales_;
  typename Backend::template Buffer<Mixing> mixing_{1};
};

template <class Objective>
[[nodiscard]] typename Objective::Settings settings_in(const Fixture& fixture) {
  typename Objective::Settings settings;
  settings.smoothing = fixture.number("smoothing");
  settings.drop_path = fixture.number("drop_path");
  settings.layer_decay = fixture.number("layer_decay");
  return settings;
}

// The fixture's eight steps with its draws and its layer-wise rates.
template <class Objective, class Backend>
void check_supervised(Backend& backend, const char* name) {
  const Fixture fixture(name);
  StepDraws<Backend> draws(backend, fixture);
  const auto settings_of = [&](const Fixture& of, index t) {
    draws.set(of, t, mixing_in(of, t, Objective::size));
    return settings_in<Objective>(of);
  };
  check_study<Objective>(backend, name, optim::AdamW{.weight_decay = fixture.number("weight_decay")}, settings_of,
                         Objective::groups(settings_in<Objective>(fixture)));
}

// The fixture's gradient clipped to the norm that it says (docs/method.md, 4.8), and unchanged below a larger norm.
template <class Objective, class Backend>
void check_clipped(Backend& backend, const char* name) {
  using Master = Accumulator<typename Backend::Scalar>;
  const Fixture fixture(name);
  StepDraws<Backend> draws(backend, fixture);
  draws.set(fixture, 0, mixing_in(fixture, 0, Objective::size));
  const auto run = [&](double clip_grad) {
    Study<Objective, Backend> study(backend, fixture, optim::AdamW{}, {}, optim::uniform(), clip_grad);
    study.step(0, settings_in<Objective>(fixture));
    const double norm = fixture.tensor("gradient_norm").values[0];
    EXPECT_NEAR(study.trainer().gradient_norm(""), norm, tolerance<Master> * norm) << "norm before clipping";
    if (clip_grad > 0 && clip_grad < norm)
      expect_digests(fixture, "clipped.grad_digest", study.gradient_digests(), tolerance<Master>);
    return study.gradient();
  };
  EXPECT_GT(fixture.tensor("gradient_norm").values[0], fixture.number("clip"));
  const auto clipped = run(fixture.number("clip"));
  const auto whole = run(0);
  EXPECT_NE(clipped, whole);
  EXPECT_EQ(run(1e6), whole);
}

// Losses of six steps with the draws that a run makes itself.
template <class Backend>
std::vector<double> supervised_losses(Backend& backend) {
  using Objective = objectives::Supervised<StudyEncoder<position::Learned>, 7>;
  const Fixture fixture("study_supervised");
  Study<Objective, Backend> run(backend, fixture, optim::AdamW{});
  std::vector<double> losses;
  for (index t = 0; t < 6; ++t) losses.push_back(run.step(t, settings_in<Objective>(fixture)));
  return losses;
}

}  // namespace tessera::test
