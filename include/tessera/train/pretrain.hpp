// A pre-training run from data to features: steps, monitor, metrics, checkpoints. Needs nlohmann-json and zlib
// (tessera::io, tessera::data).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/progress.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/run_log.hpp"
#include "tessera/train/signals.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::inline TESSERA_ABI {

// Features of images, `width` to a row, with labels.
struct FeatureSet {
  std::vector<float> values;
  std::vector<int> labels;
  index width;

  [[nodiscard]] eval::Features<float> view() const { return {values.data(), static_cast<index>(labels.size()), width}; }
};

// Attention weights of images (images*heads*tokens x tokens).
struct AttentionMaps {
  std::vector<float> values;
  int heads, tokens, grid;
};

namespace detail {

inline data::LoaderOptions loader_options(const Recipe& recipe, int size, int channels,
                                          const data::Normalization& normalization, long step, int per_epoch) {
  data::LoaderOptions options;
  options.batch_size = recipe.batch_size;
  options.image_size = size;
  options.channels = channels;
  options.views = data::moco_v3_views(recipe.crop_min);
  if (!recipe.blur)
    for (data::ViewAugmentation& view : options.views) view.blur = 0;
  options.normalization = normalization;
  options.seed = recipe.seed;
  options.threads = recipe.workers;
  options.epoch = static_cast<int>(step / per_epoch);
  options.iteration = static_cast<int>(step % per_epoch);
  return options;
}

}  // namespace detail

// Trains Method on `train` by a recipe, watching the k-NN accuracy on `test`.
template <class Method_, class Optimizer, class Dataset>
class Pretraining {
 public:
  using Method = Method_;
  using Backend = cpu::Backend<float>;
  using Encoder = typename Method::Encoder;
  static constexpr int size = Encoder::Image::size, channels = Encoder::Image::channels;

  // Throws Error if the recipe, the data or the checkpoint to resume from do not fit. The data sets must outlive the
  // run.
  Pretraining(const Recipe& recipe, const Dataset& train, const Dataset& test, const data::Normalization& normalization)
      : recipe_(checked(recipe)),
        per_epoch_(recipe.iterations_per_epoch(train.size())),
        train_(train),
        test_(test),
        normalization_(normalization),
        backend_(recipe.threads),
        trainer_(backend_, communicator_, Optimizer{.weight_decay = recipe.weight_decay}, recipe.batch_size,
                 recipe.seed) {
    if (!recipe_.resume.empty()) load_checkpoint(recipe_.resume, trainer_, metadata());
    if (trainer_.steps() > last_step())
      fail("{}: was written at step {}, but this run ends at {}", recipe_.resume.string(), trainer_.steps(),
           last_step());
    make_folder(recipe_.out);
    log_ = std::make_unique<RunLog>(metrics_path(), recipe_, per_epoch_, trainer_.steps(), last_step());
  }

  [[nodiscard]] Trainer<Method, Optimizer, Backend, comm::Serial>& trainer() { return trainer_; }
  [[nodiscard]] Backend& backend() { return backend_; }
  [[nodiscard]] const RunLog& log() const { return *log_; }
  [[nodiscard]] std::filesystem::path checkpoint_path() const { return recipe_.out / "checkpoint.safetensors"; }
  [[nodiscard]] std::filesystem::path metrics_path() const { return recipe_.out / "metrics.jsonl"; }

  // Trains until the last epoch, or until a signal; returns the signal, or 0. A checkpoint is written in either case.
  int run() {
    const StopSignals signals;
    data::TwoViewLoader<Dataset> loader(
        train_, detail::loader_options(recipe_, size, channels, normalization_, trainer_.steps(), per_epoch_));
    log_->say(fmt::format(
        "{}: {:.2f} M parameters trained, {:.0f} MB of weights and state, {:.0f} MB of activations, {} threads",
        recipe_.arch, static_cast<double>(Layout<Method>::trained_count) / 1e6,
        static_cast<double>(trainer_.parameter_bytes()) / 1e6, static_cast<double>(trainer_.activation_bytes()) / 1e6,
        backend_.pool().threads()));
    if (trainer_.steps() == 0) monitor();
    while (trainer_.steps() < last_step() && StopSignals::caught() == 0) {
      const Stopwatch waiting;
      const data::Batch& batch = loader.next();
      step(batch, waiting.seconds());
      const bool end = trainer_.steps() == last_step();
      if (end || trainer_.steps() % (recipe_.knn_every > 0 ? recipe_.knn_every : per_epoch_) == 0) monitor();
      if (end || trainer_.steps() % (recipe_.save_every > 0 ? recipe_.save_every : per_epoch_) == 0) save();
    }
    if (trainer_.steps() == last_step()) return 0;
    save();
    log_->say(fmt::format("stopped by signal {} after step {}; the same command with --resume {} continues",
                          StopSignals::caught(), trainer_.steps(), checkpoint_path().string()));
    return StopSignals::caught();
  }

  // Features of the first `limit` images (all if negative), in evaluation mode.
  [[nodiscard]] FeatureSet features(const Dataset& dataset, int limit = -1) {
    const int count = limit < 0 || limit > dataset.size() ? dataset.size() : limit;
    FeatureSet set{std::vector<float>(static_cast<std::size_t>(count) * Encoder::out), {}, Encoder::out};
    for (int first = 0; first < count; first += 2 * recipe_.batch_size) {
      const int rows = count - first < 2 * recipe_.batch_size ? count - first : 2 * recipe_.batch_size;
      const std::vector<float> images = evaluation_images(dataset, first, rows);
      trainer_.encode({images.data(), rows}, {set.values.data() + static_cast<index>(first) * Encoder::out, rows});
    }
    for (int i = 0; i < count; ++i) set.labels.push_back(dataset.label(i));
    return set;
  }

  // Attention weights of the last block for the first `count` images; count is at most a step's images.
  [[nodiscard]] AttentionMaps attention(const Dataset& dataset, int count) {
    AttentionMaps maps{{}, Encoder::heads, Encoder::tokens, Encoder::grid};
    maps.values.resize(static_cast<std::size_t>(count * Encoder::heads * Encoder::tokens * Encoder::tokens));
    const std::vector<float> images = evaluation_images(dataset, 0, count);
    trainer_.attention({images.data(), count}, Encoder::depth - 1,
                       {maps.values.data(), index{count} * Encoder::heads * Encoder::tokens});
    return maps;
  }

  void save() { save_checkpoint(checkpoint_path(), trainer_, metadata()); }

 private:
  [[nodiscard]] static const Recipe& checked(const Recipe& recipe) {
    recipe.check();
    return recipe;
  }
  static void make_folder(const std::filesystem::path& folder) {
    std::error_code problem;
    std::filesystem::create_directories(folder, problem);
    if (problem) fail("--out {}: the folder cannot be made: {}", folder.string(), problem.message());
  }

  [[nodiscard]] long last_step() const { return static_cast<long>(recipe_.epochs * per_epoch_); }
  [[nodiscard]] double epoch() const { return static_cast<double>(trainer_.steps()) / per_epoch_; }

  [[nodiscard]] Metadata metadata() const {
    Metadata metadata = recipe_.identity(train_.size());
    metadata["normalization"] = data::to_text(normalization_);
    return metadata;
  }

  [[nodiscard]] std::vector<float> evaluation_images(const Dataset& dataset, int first, int count) const {
    std::vector<float> images(static_cast<std::size_t>(count) * Method::in);
    data::AugmentScratch scratch;
    data::evaluation_batch(dataset, first, count, size, channels, normalization_, images.data(), scratch);
    return images;
  }

  void step(const data::Batch& batch, double waited) {
    constexpr int report_every = 10;
    const Stopwatch clock;
    StepSettings<Method> settings;
    settings.learning_rate = recipe_.learning_rate(epoch());
    settings.coefficients.temperature = recipe_.moco_t;
    settings.coefficients.momentum = recipe_.momentum(epoch());
    settings.frozen_gradients = (trainer_.steps() + 1) % report_every == 0;
    const double loss = trainer_.step({batch.images.data(), 2 * recipe_.batch_size}, settings);
    log_->step(trainer_.steps(), loss, waited, clock.seconds());
    if (settings.frozen_gradients)
      log_->report({trainer_.steps(), loss, settings.learning_rate, settings.coefficients.momentum,
                    trainer_.gradient_norm("base_encoder.patch_embed"),
                    trainer_.gradient_norm(fmt::format("base_encoder.blocks.{}.", Encoder::depth - 1))});
  }

  void monitor() {
    const FeatureSet bank = features(train_, recipe_.knn_bank), queries = features(test_);
    const double accuracy =
        eval::knn_accuracy(backend_.pool(), bank.view(), bank.labels, queries.view(), queries.labels);
    log_->knn(trainer_.steps(), accuracy, queries.labels.size());
  }

  Recipe recipe_;
  int per_epoch_;
  const Dataset& train_;
  const Dataset& test_;
  data::Normalization normalization_;
  Backend backend_;
  comm::Serial communicator_;
  Trainer<Method, Optimizer, Backend, comm::Serial> trainer_;
  std::unique_ptr<RunLog> log_;
};

}  // namespace tessera::inline TESSERA_ABI
