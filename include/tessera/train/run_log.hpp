// What a run tells while it goes on: a line on the terminal, and metrics.jsonl. Needs nlohmann-json (tessera::io).
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <string>

#include "tessera/io/metrics.hpp"
#include "tessera/train/progress.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// What there is to say of one step.
struct StepReport {
  long step;  // steps made, this one included
  double loss, learning_rate, momentum, patch_embed_norm, last_block_norm;
};

// Keeps time, shows progress, writes metrics.
class RunLog {
 public:
  // The run goes from step `first` to step `last`. Rows of an earlier run behind `first` are dropped from the file. One
  // that is not `loud` keeps time only: of a rank that leaves talking to another.
  RunLog(const std::filesystem::path& metrics_path, const Recipe& recipe, int per_epoch, long first, long last,
         bool loud = true)
      : recipe_(recipe), per_epoch_(per_epoch), first_(first), last_(last) {
    if (loud) out_.emplace(metrics_path, first);
  }

  void say(const std::string& line) {
    if (out_) out_->progress.keep(line);
  }

  // After every step: how long it waited for data, and how long it took then.
  void step(long step, double loss, double data_seconds, double step_seconds) {
    data_seconds_ += data_seconds;
    step_seconds_ += step_seconds;
    seen_ = step;
    if (out_ && (out_->progress.due() || step == last_)) out_->progress.show(line(loss));
  }

  // A row of metrics.
  void report(const StepReport& r) {
    if (!out_) return;
    out_->metrics.write({{"step", static_cast<double>(r.step)},
                         {"epoch", epoch(r.step)},
                         {"loss", r.loss},
                         {"lr", r.learning_rate},
                         {"moco_m", r.momentum},
                         {"grad_norm_patch_embed", r.patch_embed_norm},
                         {"grad_norm_last_block", r.last_block_norm},
                         {"images_per_second", images_per_second()},
                         {"data_wait", data_share()}});
  }

  void knn(long step, double accuracy, std::size_t images) {
    knn_ = accuracy;
    if (out_) out_->metrics.write({{"step", static_cast<double>(step)}, {"epoch", epoch(step)}, {"knn", accuracy}});
    say(fmt::format("epoch {:6.2f}  k-NN accuracy {:.4f} on {} images", epoch(step), accuracy, images));
  }

  // Of the steps alone, waiting for data included and monitors left out.
  [[nodiscard]] double images_per_second() const {
    const double seconds = step_seconds_ + data_seconds_;
    return seconds > 0 ? static_cast<double>(seen_ - first_) * recipe_.batch_size / seconds : 0;
  }
  [[nodiscard]] double seconds() const { return clock_.seconds(); }
  // Waiting for data left out; 0 before the first.
  [[nodiscard]] double seconds_per_step() const {
    return seen_ > first_ ? step_seconds_ / static_cast<double>(seen_ - first_) : 0;
  }

 private:
  struct Out {
    Out(const std::filesystem::path& metrics_path, long first) : metrics(metrics_path, first) {}
    io::MetricsWriter metrics;
    Progress progress;
  };

  [[nodiscard]] double epoch(long step) const { return static_cast<double>(step) / per_epoch_; }
  [[nodiscard]] double data_share() const {
    const double seconds = step_seconds_ + data_seconds_;
    return seconds > 0 ? data_seconds_ / seconds : 0;
  }
  [[nodiscard]] std::string line(double loss) const {
    const double left = static_cast<double>(last_ - seen_) * recipe_.batch_size / images_per_second();
    return fmt::format("epoch {:6.2f}/{}  step {}/{}  loss {:.4f}  {:.0f} images/s  data wait {:.0f} %{}  {} left",
                       epoch(seen_), recipe_.epochs, seen_, last_, loss, images_per_second(), 100 * data_share(),
                       knn_ ? fmt::format("  k-NN {:.4f}", *knn_) : "", duration_text(left));
  }

  const Recipe& recipe_;
  int per_epoch_;
  long first_, last_, seen_ = first_;
  std::optional<Out> out_;
  Stopwatch clock_;
  std::optional<double> knn_;
  double step_seconds_ = 0, data_seconds_ = 0;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
