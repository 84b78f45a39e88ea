// A pre-training run from data to features: steps, monitor, metrics, checkpoints. Needs nlohmann-json and zlib
// (tessera::io, tessera::data).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/parallel.hpp"
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

// Hands the loader's views to a step that reads memory of the host.
template <class Backend, class Method, class Dataset>
class HostFeed {
 public:
  HostFeed(Backend&, const Dataset& dataset, const data::LoaderOptions& options)
      : loader_(dataset, options), rows_(2 * index{options.batch_size}) {}

  // The stacked views of the next step, valid until the following call.
  [[nodiscard]] Rows<const float, Method::in> next() { return {loader_.next().images.data(), rows_}; }
  // Called when a step has been started: what a device's feed uses to have the next views ready.
  static void prepare() noexcept {}

 private:
  data::TwoViewLoader<Dataset> loader_;
  index rows_;
};

// Trains Method on `train` by a recipe, watching the k-NN accuracy on `test`. Feed brings views to the backend:
// HostFeed, or cuda::DeviceFeed.
template <class Method_, class Optimizer, class Dataset, class Backend_ = cpu::Backend<float>,
          template <class, class, class> class Feed = HostFeed>
class Pretraining {
 public:
  using Method = Method_;
  using Backend = Backend_;
  using Scalar = typename Backend::Scalar;
  using Encoder = typename Method::Encoder;
  static constexpr int size = Encoder::Image::size, channels = Encoder::Image::channels;

  // Throws Error if the recipe, the data or the checkpoint to resume from do not fit. Backend and data sets must
  // outlive the run.
  Pretraining(Backend& backend, const Recipe& recipe, const Dataset& train, const Dataset& test,
              const data::Normalization& normalization)
      : recipe_(checked(recipe)),
        per_epoch_(recipe.iterations_per_epoch(train.size())),
        train_(train),
        test_(test),
        normalization_(normalization),
        backend_(backend),
        pool_(recipe.threads),
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
  // Of the host, for evaluation.
  [[nodiscard]] ThreadPool& pool() { return pool_; }
  [[nodiscard]] const RunLog& log() const { return *log_; }
  [[nodiscard]] std::filesystem::path checkpoint_path() const { return recipe_.out / "checkpoint.safetensors"; }
  [[nodiscard]] std::filesystem::path metrics_path() const { return recipe_.out / "metrics.jsonl"; }

  // Trains until the last epoch, or until a signal; returns the signal, or 0. A checkpoint is written in either case.
  int run() {
    const StopSignals signals;
    Feed<Backend, Method, Dataset> feed(
        backend_, train_,
        detail::loader_options(recipe_, size, channels, normalization_, trainer_.steps(), per_epoch_));
    log_->say(fmt::format(
        "{}: {:.2f} M parameters trained, {:.0f} MB of weights and state, {:.0f} MB of activations, {}", recipe_.arch,
        static_cast<double>(Layout<Method>::trained_count) / 1e6, static_cast<double>(trainer_.parameter_bytes()) / 1e6,
        static_cast<double>(trainer_.activation_bytes()) / 1e6, backend_.name()));
    if (trainer_.steps() == 0) monitor();
    while (trainer_.steps() < last_step() && StopSignals::caught() == 0) {
      step(feed);
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
    const Buffer images(index{2} * recipe_.batch_size * Method::in),
        features(index{2} * recipe_.batch_size * Encoder::out);
    for (int first = 0; first < count; first += 2 * recipe_.batch_size) {
      const int rows = count - first < 2 * recipe_.batch_size ? count - first : 2 * recipe_.batch_size;
      show(dataset, first, rows, images);
      trainer_.encode({images.data(), rows}, {features.data(), rows});
      read(features, index{rows} * Encoder::out, set.values.data() + static_cast<index>(first) * Encoder::out);
    }
    for (int i = 0; i < count; ++i) set.labels.push_back(dataset.label(i));
    return set;
  }

  // Attention weights of the last block for the first `count` images; count is at most a step's images.
  [[nodiscard]] AttentionMaps attention(const Dataset& dataset, int count) {
    AttentionMaps maps{{}, Encoder::heads, Encoder::tokens, Encoder::grid};
    maps.values.resize(static_cast<std::size_t>(count * Encoder::heads * Encoder::tokens * Encoder::tokens));
    const Buffer images(index{count} * Method::in), weights(static_cast<index>(maps.values.size()));
    show(dataset, 0, count, images);
    trainer_.attention({images.data(), count}, Encoder::depth - 1,
                       {weights.data(), index{count} * Encoder::heads * Encoder::tokens});
    read(weights, weights.size(), maps.values.data());
    return maps;
  }

  void save() { save_checkpoint(checkpoint_path(), trainer_, metadata()); }

 private:
  using Buffer = typename Backend::template Buffer<Scalar>;

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

  // Puts `count` images, as they are seen at evaluation, into memory of the backend, and reads what it made of them.
  void show(const Dataset& dataset, int first, int count, const Buffer& to) const {
    std::vector<float> images(static_cast<std::size_t>(count) * Method::in);
    data::AugmentScratch scratch;
    data::evaluation_batch(dataset, first, count, size, channels, normalization_, images.data(), scratch);
    std::vector<Scalar> stored;
    stored.reserve(images.size());
    for (const float value : images) stored.push_back(static_cast<Scalar>(value));
    backend_.upload(static_cast<index>(stored.size()), stored.data(), to.data());
  }
  void read(const Buffer& from, index count, float* to) const {
    std::vector<Scalar> stored(static_cast<std::size_t>(count));
    backend_.download(count, from.data(), stored.data());
    for (const Scalar value : stored) *to++ = static_cast<float>(value);
  }

  void step(Feed<Backend, Method, Dataset>& feed) {
    constexpr int report_every = 10;
    const Stopwatch waiting;
    const auto images = feed.next();
    const double waited = waiting.seconds();
    const Stopwatch clock;
    StepSettings<Method> settings;
    settings.learning_rate = recipe_.learning_rate(epoch());
    settings.coefficients.temperature = recipe_.moco_t;
    settings.coefficients.momentum = recipe_.momentum(epoch());
    settings.frozen_gradients = (trainer_.steps() + 1) % report_every == 0;
    trainer_.start(images, settings);
    feed.prepare();
    const double loss = trainer_.finish();
    log_->step(trainer_.steps(), loss, waited, clock.seconds());
    if (settings.frozen_gradients)
      log_->report({trainer_.steps(), loss, settings.learning_rate, settings.coefficients.momentum,
                    trainer_.gradient_norm("base_encoder.patch_embed"),
                    trainer_.gradient_norm(fmt::format("base_encoder.blocks.{}.", Encoder::depth - 1))});
  }

  void monitor() {
    const FeatureSet bank = features(train_, recipe_.knn_bank), queries = features(test_);
    const double accuracy = eval::knn_accuracy(pool_, bank.view(), bank.labels, queries.view(), queries.labels);
    log_->knn(trainer_.steps(), accuracy, queries.labels.size());
  }

  Recipe recipe_;
  int per_epoch_;
  const Dataset& train_;
  const Dataset& test_;
  data::Normalization normalization_;
  Backend& backend_;
  ThreadPool pool_;
  comm::Serial communicator_;
  Trainer<Method, Optimizer, Backend, comm::Serial> trainer_;
  std::unique_ptr<RunLog> log_;
};

}  // namespace tessera::inline TESSERA_ABI
