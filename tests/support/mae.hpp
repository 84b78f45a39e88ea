// MAE with the noise of a fixture, on any backend.
#pragma once

#include <vector>

#include "support/study.hpp"
#include "tessera/objectives/mae.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {

// A policy of MAE whose noise is in memory of the backend, where a StepNoise has put it.
struct GivenNoise {
  static inline const float* noise = nullptr;

  template <int patches, int kept, class Step>
  static void draw(Step& s, objectives::mae::Mask mask) {
    mask_by_noise<patches, kept>(s.context.backend, noise, s.images(), mask.keep, mask.restore);
  }
};

// The noise that GivenNoise gives.
template <class Backend>
class StepNoise {
 public:
  StepNoise(const Backend& backend, index count) : noise_(backend, count), count_(count) {
    GivenNoise::noise = noise_.data();
  }
  // That of step t, of the fixture's noise for all steps.
  void set(const Fixture& fixture, index t) {
    const auto from = fixture.tensor("noise").values.begin() + t * count_;
    noise_.assign({from, from + count_});
  }

 private:
  Held<float, Backend> noise_;
  index count_;
};

// The study's: 30 % of 25 patches stay, a decoder of one block of width 12 with 3 heads. The position tables of the
// encoder's type do not matter.
template <bool norm_pixels = true, class Noise = GivenNoise>
using StudyMae = objectives::MAE<StudyEncoder<>, objectives::mae::Decoder<12, 1, 3>, 70, norm_pixels, Noise>;

[[nodiscard]] inline optim::AdamW study_mae_rule(const Fixture& fixture) {
  return {.weight_decay = fixture.number("weight_decay"),
          .beta1 = fixture.number("beta1"),
          .beta2 = fixture.number("beta2")};
}

[[nodiscard]] inline index study_mae_noise(const Fixture& fixture) {
  return static_cast<index>(fixture.number("batch")) * StudyMae<>::patches;
}

// The fixture's eight steps with its noise and its groups.
template <class Backend>
void check_mae(Backend& backend) {
  const Fixture fixture("study_mae");
  StepNoise<Backend> noise(backend, study_mae_noise(fixture));
  const auto settings_of = [&](const Fixture& of, index t) {
    noise.set(of, t);
    return StudyMae<>::Settings{};
  };
  check_study<StudyMae<>>(backend, "study_mae", study_mae_rule(fixture), settings_of, StudyMae<>::groups({}));
}

// The first step without normalized pixels.
template <class Backend>
void check_raw_mae(Backend& backend) {
  using Objective = StudyMae<false>;
  constexpr double bound = tolerance<Accumulator<typename Backend::Scalar>>;
  const Fixture fixture("study_mae");
  StepNoise<Backend> noise(backend, study_mae_noise(fixture));
  noise.set(fixture, 0);
  Study<Objective, Backend> run(backend, fixture, study_mae_rule(fixture));
  EXPECT_NEAR(run.step(0, {}), fixture.tensor("raw.loss").values[0], bound);
  expect_digests(fixture, "raw.grad_digest", run.gradient_digests(), bound);
}

// Losses of six steps with the masks that a run draws itself.
template <class Backend>
std::vector<double> mae_losses(Backend& backend) {
  const Fixture fixture("study_mae");
  Study<StudyMae<true, objectives::mae::CounterBased>, Backend> run(backend, fixture, study_mae_rule(fixture));
  std::vector<double> losses;
  for (index t = 0; t < 6; ++t) losses.push_back(run.step(t, {}));
  return losses;
}

}  // namespace tessera::test
