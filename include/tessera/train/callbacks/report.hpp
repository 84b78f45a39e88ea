// Tells how a run goes: a line on the terminal, and rows in metrics.jsonl. Needs nlohmann-json (tessera::io).
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/io/metrics.hpp"
#include "tessera/train/callbacks/progress.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that keeps time, shows progress, and writes a row of metrics every recipe.metrics_every steps: loss, rate,
// the objective's settings, and the gradient's norm over some tensors.
class Report {
 public:
  // Columns "grad_norm_NAME" hold the norm of the gradient over the tensors whose name starts with the prefix.
  using GradientNorms = std::vector<std::pair<std::string, std::string>>;

  // A run that starts at step `first`. Rows of an earlier run behind that step are dropped from the file. A report that
  // is not `loud` keeps time only: that of a rank that leaves talking to another.
  Report(const std::filesystem::path& metrics_path, long first, bool loud, GradientNorms norms = {})
      : norms_(std::move(norms)), first_(first), seen_(first) {
    if (!loud) return;
    out_.emplace(metrics_path, first);
    for (const std::size_t line : out_->metrics.damaged())
      say(fmt::format("{}: line {} was damaged and is left out", metrics_path.string(), line));
  }

  // Prints a line that stays.
  void say(const std::string& line) {
    if (out_) out_->progress.keep(line);
  }
  // Writes a row of metrics.
  void row(const io::MetricsRow& values) {
    if (out_) out_->metrics.write(values);
  }
  // Returns when all rows are on the disk.
  void flush_to_disk() const {
    if (out_) out_->metrics.flush_to_disk();
  }
  // Shows "name value" in the progress line from now on.
  void show(std::string_view name, double value) { shown_ = fmt::format("  {} {:.4f}", name, value); }

  // Nobody reads any more: `pretrain ... | head` shall end.
  template <class Run>
  [[nodiscard]] bool stop(Run&) const noexcept {
    return out_ && out_->progress.closed();
  }
  template <class Run, class StepSettings>
  void prepare(Run& run, StepSettings& settings) {
    if ((run.steps() + 1) % run.recipe().metrics_every == 0) settings.frozen_gradients = true;
  }

  template <class Run>
  void after(Run& run, const StepReport& step) {
    data_seconds_ += step.waited;
    step_seconds_ += step.seconds;
    seen_ = run.steps();
    batch_ = run.recipe().batch_size;
    if (out_ && (out_->progress.due() || step.last)) out_->progress.show(line(run, step.loss));
    if (seen_ % run.recipe().metrics_every == 0) write(run, step);
  }

  // Images per second of the steps; the time includes waiting for data and leaves monitors out.
  [[nodiscard]] double images_per_second() const {
    const double seconds = step_seconds_ + data_seconds_;
    return seconds > 0 ? static_cast<double>(seen_ - first_) * batch_ / seconds : 0;
  }
  // Since the report was made.
  [[nodiscard]] double seconds() const { return clock_.seconds(); }
  // Waiting for data left out; 0 before the first step.
  [[nodiscard]] double seconds_per_step() const {
    return seen_ > first_ ? step_seconds_ / static_cast<double>(seen_ - first_) : 0;
  }

 private:
  struct Out {
    Out(const std::filesystem::path& metrics_path, long first) : metrics(metrics_path, first) {}
    io::MetricsWriter metrics;
    Progress progress;
  };

  template <class Run>
  void write(Run& run, const StepReport& step) {
    io::MetricsRow values{
        {"step", static_cast<double>(seen_)}, {"epoch", run.epoch()}, {"loss", step.loss}, {"lr", step.learning_rate}};
    const double before = static_cast<double>(seen_ - 1) / run.iterations_per_epoch();
    auto settings = run.settings();
    settings.visit([&](std::string_view name, const Schedule& schedule, Range, std::string_view) {
      if (schedule.cosine || schedule.end != schedule.start)
        values.push_back({objectives::key_of(name), schedule.at(before, run.recipe().epochs)});
    });
    for (const auto& [name, prefix] : norms_)
      values.push_back({"grad_norm_" + name, run.trainer().gradient_norm(prefix)});
    values.push_back({"images_per_second", images_per_second()});
    values.push_back({"data_wait", data_share()});
    row(values);
  }

  [[nodiscard]] double data_share() const {
    const double seconds = step_seconds_ + data_seconds_;
    return seconds > 0 ? data_seconds_ / seconds : 0;
  }
  template <class Run>
  [[nodiscard]] std::string line(const Run& run, double loss) const {
    const double left = static_cast<double>(run.last_step() - seen_) * batch_ / images_per_second();
    return fmt::format("epoch {:6.2f}/{}  step {}/{}  loss {:.4f}  {:.0f} images/s  data wait {:.0f} %{}  {} left",
                       run.epoch(), run.recipe().epochs, seen_, run.last_step(), loss, images_per_second(),
                       100 * data_share(), shown_, duration_text(left));
  }

  GradientNorms norms_;
  long first_, seen_;
  int batch_ = 0;
  std::optional<Out> out_;
  Stopwatch clock_;
  std::string shown_;
  double step_seconds_ = 0, data_seconds_ = 0;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
