// The training loop: step after step until the recipe ends or a rank is asked to stop, with callbacks around the steps.
#pragma once

#include <string_view>
#include <utility>

#include "tessera/train/callbacks/progress.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The figures of one step: for progress, metrics and callbacks.
struct StepReport {
  double loss = 0, learning_rate = 0;
  double waited = 0, seconds = 0;  // for data; in the step
  bool last = false;               // of the run
};

// A run of a trainer by a recipe. A callback is a value with any of these members, each called on all ranks:
// struct Callback {
//   void begin(Run&);                                        // before the first step of this run
//   bool stop(Run&);                                         // before every step: whether it shall be the last one
//   void prepare(Run&, StepSettings<Objective>&);            // before every step
//   void after(Run&, const StepReport&);                     // after every step
//   void end(Run&, bool finished);                           // behind the last step; false: a rank asked to stop
// };
template <class Trainer_>
class Run {
 public:
  using Trainer = Trainer_;
  using Objective = typename Trainer::Objective;
  using Settings = typename Objective::Settings;

  // Trainer and recipe must outlive the run. Throws Error if a setting is outside its range, or if the trainer has made
  // more steps than the recipe has.
  Run(Trainer& trainer, const Recipe& recipe, Settings settings, int iterations_per_epoch)
      : trainer_(trainer), recipe_(recipe), settings_(std::move(settings)), per_epoch_(iterations_per_epoch) {
    objectives::check_settings(settings_);
    if (steps() > last_step())
      fail("{}: was written at step {}, but this run ends at {}", recipe.resume.string(), steps(), last_step());
  }

  [[nodiscard]] Trainer& trainer() const noexcept { return trainer_; }
  [[nodiscard]] const Recipe& recipe() const noexcept { return recipe_; }
  [[nodiscard]] const Settings& settings() const noexcept { return settings_; }
  [[nodiscard]] int iterations_per_epoch() const noexcept { return per_epoch_; }
  [[nodiscard]] long steps() const noexcept { return trainer_.steps(); }
  [[nodiscard]] long last_step() const noexcept { return static_cast<long>(recipe_.epochs * per_epoch_); }
  [[nodiscard]] double epoch() const noexcept { return static_cast<double>(steps()) / per_epoch_; }
  // True on rank 0, the one that writes files and prints.
  [[nodiscard]] bool leads() const { return trainer_.communicator().rank() == 0; }
  // True after a step that ends a period of `every` steps (0: an epoch), and after the last step.
  [[nodiscard]] bool due(int every) const {
    return steps() == last_step() || steps() % (every > 0 ? every : per_epoch_) == 0;
  }

  // Trains to the end, or until a rank asks to stop; returns whether it trained to the end. Source: next() gives the
  // batch of the next step, prepare() is called while a step runs.
  template <class Source, class... Callbacks>
  bool operator()(Source& source, Callbacks&... callbacks) {
    (call_begin(callbacks), ...);
    for (bool stop = !all_agree(!(call_stop(callbacks) || ...)); steps() < last_step() && !stop;) {
      step(source, callbacks...);
      stop = trainer_.stop_wished();
    }
    const bool finished = steps() == last_step();
    (call_end(callbacks, finished), ...);
    return finished;
  }

  // Runs body(), in which ranks meet between two steps; a lost rank's message names the step before.
  template <class Body>
  void between_steps(Body&& body) const {
    try {
      body();
    } catch (const comm::RankLost& error) {
      throw comm::RankLost(fmt::format("after step {}: {}", steps(), error.what()));
    }
  }
  [[nodiscard]] bool all_agree(bool good) {
    between_steps([&] { good = trainer_.all_agree(good); });
    return good;
  }

 private:
  using StepSettings = tessera::StepSettings<Objective>;

  template <class Callback>
  void call_begin(Callback& callback) {
    if constexpr (requires { callback.begin(*this); }) callback.begin(*this);
  }
  template <class Callback>
  void call_prepare(Callback& callback, StepSettings& settings) {
    if constexpr (requires { callback.prepare(*this, settings); }) callback.prepare(*this, settings);
  }
  template <class Callback>
  void call_after(Callback& callback, const StepReport& report) {
    if constexpr (requires { callback.after(*this, report); }) callback.after(*this, report);
  }
  template <class Callback>
  void call_end(Callback& callback, bool finished) {
    if constexpr (requires { callback.end(*this, finished); }) callback.end(*this, finished);
  }
  template <class Callback>
  bool call_stop(Callback& callback) {
    if constexpr (requires { callback.stop(*this); })
      return callback.stop(*this);
    else
      return false;
  }

  template <class Source, class... Callbacks>
  void step(Source& source, Callbacks&... callbacks) {
    const Stopwatch waiting;
    const auto batch = source.next();
    StepReport report;
    report.waited = waiting.seconds();
    const Stopwatch clock;
    StepSettings settings;
    settings.settings = settings_;
    settings.learning_rate = report.learning_rate = recipe_.learning_rate(epoch());
    settings.epoch = epoch();
    settings.epochs = recipe_.epochs;
    settings.stop = (call_stop(callbacks) || ...);
    (call_prepare(callbacks, settings), ...);
    trainer_.start(batch, settings);
    source.prepare();
    report.loss = trainer_.finish();
    report.seconds = clock.seconds();
    report.last = steps() == last_step();
    (call_after(callbacks, report), ...);
  }

  Trainer& trainer_;
  const Recipe& recipe_;
  Settings settings_;
  int per_epoch_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
