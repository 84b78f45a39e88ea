// A pre-training run from data to features: steps, monitor, metrics, checkpoints. Needs nlohmann-json and zlib
// (tessera::io, tessera::data).
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/io/metrics.hpp"
#include "tessera/io/npy.hpp"
#include "tessera/optim/schedules.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/progress.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/signals.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::inline TESSERA_ABI {

// Features of a whole data set, with labels.
struct FeatureSet {
  std::vector<float> values;
  std::vector<int> labels;

  template <class Encoder>
  [[nodiscard]] eval::Features<float> view() const {
    return {values.data(), static_cast<index>(labels.size()), Encoder::out};
  }
};

// Trains Method on `train` by a recipe, watching the k-NN accuracy on `test`.
template <class Method, class Optimizer, class Dataset>
class Pretraining {
 public:
  using Backend = cpu::Backend<float>;
  using Encoder = typename Method::Encoder;
  static constexpr int size = Encoder::Image::size, channels = Encoder::Image::channels;

  // Throws Error if the recipe, the data or the checkpoint to resume from do not fit.
  Pretraining(const Recipe& recipe, const Dataset& train, const Dataset& test, const data::Normalization& normalization,
              int classes)
      : recipe_(checked(recipe)),
        train_(train),
        test_(test),
        normalization_(normalization),
        classes_(classes),
        backend_(recipe.threads),
        trainer_(backend_, communicator_, Optimizer{.weight_decay = recipe.weight_decay}, recipe.batch_size,
                 recipe.seed) {
    if (!recipe_.resume.empty()) load_checkpoint(recipe_.resume, trainer_, metadata());
    std::filesystem::create_directories(recipe_.out);
  }

  [[nodiscard]] Trainer<Method, Optimizer, Backend, comm::Serial>& trainer() { return trainer_; }
  [[nodiscard]] Backend& backend() { return backend_; }
  [[nodiscard]] std::filesystem::path checkpoint_path() const { return recipe_.out / "checkpoint.safetensors"; }
  [[nodiscard]] std::filesystem::path metrics_path() const { return recipe_.out / "metrics.jsonl"; }

  // Trains until the last epoch, or until a signal; returns the signal, or 0. A checkpoint is written in either case.
  int run() {
    const int per_epoch = iterations_per_epoch();
    const long last = static_cast<long>(recipe_.epochs * per_epoch);
    data::TwoViewLoader<Dataset> loader(train_, loader_options(per_epoch));
    io::MetricsWriter metrics(metrics_path(), trainer_.steps());
    const StopSignals signals;
    const auto begin = Clock::now();
    const long first = trainer_.steps();
    progress_.keep(fmt::format(
        "{}: {:.2f} M parameters trained, {:.0f} MB of weights and state, {:.0f} MB of activations, {} threads",
        recipe_.arch, static_cast<double>(Layout<Method>::trained_count) / 1e6,
        static_cast<double>(trainer_.parameter_bytes()) / 1e6, static_cast<double>(trainer_.activation_bytes()) / 1e6,
        backend_.pool().threads()));
    if (first == 0) monitor(metrics, 0, per_epoch);
    while (trainer_.steps() < last) {
      const auto waiting = Clock::now();
      const data::Batch& batch = loader.next();
      data_seconds_ += seconds_since(waiting);
      const double loss = step(batch, per_epoch, metrics);
      const long done = trainer_.steps();
      const bool end = done == last;
      if (progress_.due() || end) progress_.show(progress_line(loss, per_epoch, last, first, seconds_since(begin)));
      if (done % every(recipe_.knn_every, per_epoch) == 0 || end) monitor(metrics, done, per_epoch);
      if (done % every(recipe_.save_every, per_epoch) == 0 || end || StopSignals::caught() != 0) save();
      if (StopSignals::caught() != 0) return StopSignals::caught();
    }
    training_seconds_ = seconds_since(begin);
    return 0;
  }

  // Features of the first `limit` images (all if negative), in evaluation mode.
  [[nodiscard]] FeatureSet features(const Dataset& dataset, int limit = -1) {
    const int count = limit < 0 || limit > dataset.size() ? dataset.size() : limit;
    FeatureSet set{std::vector<float>(static_cast<std::size_t>(count) * Encoder::out), {}};
    std::vector<float> images(static_cast<std::size_t>(2 * recipe_.batch_size) * Method::in);
    data::AugmentScratch scratch;
    for (int first = 0; first < count; first += 2 * recipe_.batch_size) {
      const int rows = count - first < 2 * recipe_.batch_size ? count - first : 2 * recipe_.batch_size;
      data::evaluation_batch(dataset, first, rows, size, channels, normalization_, images.data(), scratch);
      trainer_.encode({images.data(), rows}, {set.values.data() + static_cast<index>(first) * Encoder::out, rows});
    }
    for (int i = 0; i < count; ++i) set.labels.push_back(dataset.label(i));
    return set;
  }

  void save() { save_checkpoint(checkpoint_path(), trainer_, metadata()); }

  [[nodiscard]] double images_per_second() const { return images_per_second_; }
  [[nodiscard]] double training_seconds() const { return training_seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  [[nodiscard]] static const Recipe& checked(const Recipe& recipe) {
    recipe.check();
    return recipe;
  }
  [[nodiscard]] static int every(int steps, int per_epoch) { return steps > 0 ? steps : per_epoch; }

  [[nodiscard]] int iterations_per_epoch() const {
    const int iterations = train_.size() / recipe_.batch_size;
    if (iterations == 0)
      fail("--batch-size {} is larger than the data set of {} images", recipe_.batch_size, train_.size());
    return iterations;
  }

  // What must be the same for a resumed run to be the same run.
  [[nodiscard]] Metadata metadata() const {
    return {{"arch", recipe_.arch},
            {"seed", std::to_string(recipe_.seed)},
            {"batch_size", std::to_string(recipe_.batch_size)},
            {"epochs", fmt::format("{}", recipe_.epochs)},
            {"warmup_epochs", fmt::format("{}", recipe_.warmup_epochs)},
            {"lr", fmt::format("{}", recipe_.lr)},
            {"weight_decay", fmt::format("{}", recipe_.weight_decay)},
            {"moco_m", fmt::format("{}", recipe_.moco_m)},
            {"moco_m_cos", recipe_.moco_m_cos ? "1" : "0"},
            {"moco_t", fmt::format("{}", recipe_.moco_t)},
            {"crop_min", fmt::format("{}", recipe_.crop_min)},
            {"blur", recipe_.blur ? "1" : "0"},
            {"images", std::to_string(train_.size())}};
  }

  [[nodiscard]] data::LoaderOptions loader_options(int per_epoch) const {
    data::LoaderOptions options;
    options.batch_size = recipe_.batch_size;
    options.image_size = size;
    options.channels = channels;
    options.views = data::moco_v3_views(recipe_.crop_min);
    if (!recipe_.blur)
      for (data::ViewAugmentation& view : options.views) view.blur = 0;
    options.normalization = normalization_;
    options.seed = recipe_.seed;
    options.threads = recipe_.workers;
    options.epoch = static_cast<int>(trainer_.steps() / per_epoch);
    options.iteration = static_cast<int>(trainer_.steps() % per_epoch);
    return options;
  }

  double step(const data::Batch& batch, int per_epoch, io::MetricsWriter& metrics) {
    constexpr int log_every = 10;
    const auto start = Clock::now();
    const double epoch = static_cast<double>(trainer_.steps()) / per_epoch;
    StepSettings<Method> settings;
    settings.learning_rate =
        optim::learning_rate(recipe_.lr * recipe_.batch_size / 256, epoch, recipe_.warmup_epochs, recipe_.epochs);
    settings.coefficients.temperature = recipe_.moco_t;
    settings.coefficients.momentum =
        recipe_.moco_m_cos ? optim::momentum_coefficient(recipe_.moco_m, epoch, recipe_.epochs) : recipe_.moco_m;
    settings.frozen_gradients = (trainer_.steps() + 1) % log_every == 0;
    const double loss = trainer_.step({batch.images.data(), 2 * recipe_.batch_size}, settings);
    step_seconds_ += seconds_since(start);
    ++timed_steps_;
    if (!settings.frozen_gradients) return loss;
    images_per_second_ = static_cast<double>(timed_steps_) * recipe_.batch_size / (step_seconds_ + data_seconds_);
    metrics.write(
        {{"step", static_cast<double>(trainer_.steps())},
         {"epoch", static_cast<double>(trainer_.steps()) / per_epoch},
         {"loss", loss},
         {"lr", settings.learning_rate},
         {"moco_m", settings.coefficients.momentum},
         {"grad_norm_patch_embed", trainer_.gradient_norm("base_encoder.patch_embed")},
         {"grad_norm_last_block", trainer_.gradient_norm(fmt::format("base_encoder.blocks.{}.", Encoder::depth - 1))},
         {"images_per_second", images_per_second_},
         {"data_wait", data_seconds_ / (step_seconds_ + data_seconds_)}});
    return loss;
  }

  void monitor(io::MetricsWriter& metrics, long step, int per_epoch) {
    const FeatureSet bank = features(train_, recipe_.knn_bank), queries = features(test_);
    knn_ = eval::knn_accuracy(backend_.pool(), bank.template view<Encoder>(), bank.labels,
                              queries.template view<Encoder>(), queries.labels, classes_);
    const double epoch = static_cast<double>(step) / per_epoch;
    metrics.write({{"step", static_cast<double>(step)}, {"epoch", epoch}, {"knn", *knn_}});
    progress_.keep(
        fmt::format("epoch {:6.2f}  k-NN accuracy {:.4f} on {} images", epoch, *knn_, queries.labels.size()));
  }

  [[nodiscard]] std::string progress_line(double loss, int per_epoch, long last, long first, double seconds) const {
    const long done = trainer_.steps();
    const double left = seconds / static_cast<double>(done - first) * static_cast<double>(last - done);
    return fmt::format("epoch {:6.2f}/{}  step {}/{}  loss {:.4f}  {:.0f} images/s  data wait {:.0f} %{}  {} left",
                       static_cast<double>(done) / per_epoch, recipe_.epochs, done, last, loss,
                       static_cast<double>(timed_steps_) * recipe_.batch_size / (step_seconds_ + data_seconds_),
                       100 * data_seconds_ / (step_seconds_ + data_seconds_),
                       knn_ ? fmt::format("  k-NN {:.4f}", *knn_) : "", duration_text(left));
  }

  Recipe recipe_;
  const Dataset& train_;
  const Dataset& test_;
  data::Normalization normalization_;
  int classes_;
  Backend backend_;
  comm::Serial communicator_;
  Trainer<Method, Optimizer, Backend, comm::Serial> trainer_;
  Progress progress_;
  std::optional<double> knn_;
  double step_seconds_ = 0, data_seconds_ = 0, images_per_second_ = 0, training_seconds_ = 0;
  long timed_steps_ = 0;
};

}  // namespace tessera::inline TESSERA_ABI
