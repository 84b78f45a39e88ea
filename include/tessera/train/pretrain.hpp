// A pre-training run from data to features: steps, monitor, metrics, checkpoints. Needs nlohmann-json and zlib
// (tessera::io, tessera::data).
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/thread_pool.hpp"
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

namespace tessera {
inline namespace TESSERA_ABI {

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
                                          const data::Normalization& normalization, long step, int per_epoch, int rank,
                                          int ranks) {
  data::LoaderOptions options;
  options.batch_size = recipe.batch_size / ranks;
  options.rank = rank;
  options.ranks = ranks;
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
// HostFeed, or cuda::DeviceFeed. Communicator and Sharing are the trainer's: all ranks make their Pretraining, and call
// its functions, together; rank 0 writes and talks.
template <class Method_, class Optimizer, class Dataset, class Backend_ = cpu::Backend<float>,
          template <class, class, class> class Feed = HostFeed, class Communicator = comm::Serial,
          template <class, class> class Sharing = comm::Replicated>
class Pretraining {
 public:
  using Method = Method_;
  using Backend = Backend_;
  using Scalar = typename Backend::Scalar;
  using Encoder = typename Method::Encoder;
  using Trainer = tessera::Trainer<Method, Optimizer, Backend, Communicator, Sharing>;
  static constexpr int size = Encoder::Image::size, channels = Encoder::Image::channels;

  // Throws Error if the recipe, the data or the checkpoint to resume from do not fit. Backend, communicator and data
  // sets must outlive the run.
  Pretraining(Backend& backend, Communicator& communicator, const Recipe& recipe, const Dataset& train,
              const Dataset& test, const data::Normalization& normalization)
      : recipe_(checked(recipe, communicator.size())),
        per_epoch_(recipe.iterations_per_epoch(train.size())),
        train_(train),
        test_(test),
        normalization_(normalization),
        backend_(backend),
        communicator_(communicator),
        pool_(recipe.threads),
        trainer_(backend_, communicator_, Optimizer{.weight_decay = recipe.weight_decay},
                 recipe.batch_size / communicator.size(), recipe.seed) {
    if (!recipe_.resume.empty()) load_checkpoint(recipe_.resume, trainer_, metadata());
    if (trainer_.steps() > last_step())
      fail("{}: was written at step {}, but this run ends at {}", recipe_.resume.string(), trainer_.steps(),
           last_step());
    if (leads()) make_folder(recipe_.out);
    log_ = std::make_unique<RunLog>(metrics_path(), recipe_, per_epoch_, trainer_.steps(), last_step(), leads());
  }

  [[nodiscard]] Trainer& trainer() { return trainer_; }
  // Whether this is the rank that writes.
  [[nodiscard]] bool leads() const { return communicator_.rank() == 0; }
  [[nodiscard]] const RunLog& log() const { return *log_; }
  [[nodiscard]] std::filesystem::path checkpoint_path() const { return recipe_.out / "checkpoint.safetensors"; }
  [[nodiscard]] std::filesystem::path metrics_path() const { return recipe_.out / "metrics.jsonl"; }

  // Trains until the last epoch, or until a signal to any rank; returns whether it trained to the end. A checkpoint is
  // written in either case.
  bool run() {
    const StopSignals signals;
    communicator_.set_deadline(patience(0));
    Feed<Backend, Method, Dataset> feed(
        backend_, train_,
        detail::loader_options(recipe_, size, channels, normalization_, trainer_.steps(), per_epoch_,
                               communicator_.rank(), communicator_.size()));
    log_->say(fmt::format(
        "{}: {:.2f} M parameters trained, {:.0f} MB of weights and state, {:.0f} MB of activations, {}{}", recipe_.arch,
        static_cast<double>(Layout<Method>::trained_count) / 1e6, static_cast<double>(trainer_.parameter_bytes()) / 1e6,
        static_cast<double>(trainer_.activation_bytes()) / 1e6, backend_.name(),
        communicator_.size() > 1 ? fmt::format(", each of {} ranks", communicator_.size()) : ""));
    if (trainer_.steps() == 0) monitor();
    for (bool stop = !all_agree(StopSignals::caught() == 0); trainer_.steps() < last_step() && !stop;) {
      step(feed);
      stop = trainer_.stop_wished();
      const bool end = trainer_.steps() == last_step();
      if (end || trainer_.steps() % (recipe_.knn_every > 0 ? recipe_.knn_every : per_epoch_) == 0) monitor();
      if (end || trainer_.steps() % (recipe_.save_every > 0 ? recipe_.save_every : per_epoch_) == 0) save();
    }
    if (trainer_.steps() == last_step()) return true;
    save();
    log_->say(fmt::format("stopped by a signal after step {}; the same command with --resume {} continues",
                          trainer_.steps(), checkpoint_path().string()));
    return false;
  }

  // Features of the first `limit` images (all if negative), in evaluation mode. Every rank encodes a share and has all.
  [[nodiscard]] FeatureSet features(const Dataset& dataset, int limit = -1) {
    const int count = limit < 0 || limit > dataset.size() ? dataset.size() : limit;
    FeatureSet set{std::vector<float>(static_cast<std::size_t>(count) * Encoder::out), {}, Encoder::out};
    const int most = static_cast<int>(Method::views * trainer_.batch());
    const Buffer images(index{most} * Method::in), features(index{count} * Encoder::out);
    std::vector<index> cuts;
    for (int rank = 0; rank <= communicator_.size(); ++rank)
      cuts.push_back(comm::even_cut(count, communicator_.size(), rank) * Encoder::out);
    const auto mine = cuts.begin() + communicator_.rank();
    const int first = static_cast<int>(mine[0] / Encoder::out), last = static_cast<int>(mine[1] / Encoder::out);
    for (int at = first; at < last; at += most) {
      const int rows = last - at < most ? last - at : most;
      show(dataset, at, rows, images);
      trainer_.encode({images.data(), rows}, {features.data() + index{at} * Encoder::out, rows});
    }
    naming_step([&] {
      communicator_.all_gather(backend_, features.data(), cuts);
      communicator_.wait(backend_);
    });
    read(features, features.size(), set.values.data());
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

  void save() {
    naming_step([&] { save_checkpoint(checkpoint_path(), trainer_, metadata()); });
  }

 private:
  using Buffer = typename Backend::template Buffer<Scalar>;

  [[nodiscard]] static const Recipe& checked(const Recipe& recipe, int ranks) {
    recipe.check();
    if (recipe.batch_size % ranks != 0)
      fail("--batch-size {} is the batch of all ranks and cannot be dealt out to {} of them in equal shares",
           recipe.batch_size, ranks);
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
    settings.stop = StopSignals::caught() != 0;
    communicator_.set_deadline(patience(log_->seconds_per_step()));
    trainer_.start(images, settings);
    feed.prepare();
    const double loss = trainer_.finish();
    communicator_.set_deadline(patience(0));  // behind the step, ranks wait for what one does alone
    log_->step(trainer_.steps(), loss, waited, clock.seconds());
    if (settings.frozen_gradients)
      log_->report({trainer_.steps(), loss, settings.learning_rate, settings.coefficients.momentum,
                    trainer_.gradient_norm("base_encoder.patch_embed"),
                    trainer_.gradient_norm(fmt::format("base_encoder.blocks.{}.", Encoder::depth - 1))});
  }

  // How long to wait for other ranks. typical: seconds that a step takes, or 0 where that is no measure: in the first
  // step, and behind steps.
  [[nodiscard]] std::chrono::milliseconds patience(double typical) const {
    constexpr double shortest = 30, steps = 10;
    if (recipe_.rank_timeout == 0 && typical == 0) return comm::default_deadline;
    const double seconds = recipe_.rank_timeout > 0 ? recipe_.rank_timeout : larger(shortest, steps * typical);
    return std::chrono::milliseconds(static_cast<long>(1e3 * seconds));
  }

  // What is said of a rank that is lost between two steps names the first of them.
  template <class Body>
  void naming_step(Body&& body) const {
    try {
      body();
    } catch (const comm::RankLost& error) {
      throw comm::RankLost(fmt::format("after step {}: {}", trainer_.steps(), error.what()));
    }
  }
  [[nodiscard]] bool all_agree(bool good) {
    naming_step([&] { good = trainer_.all_agree(good); });
    return good;
  }

  void monitor() {
    const FeatureSet bank = features(train_, recipe_.knn_bank), queries = features(test_);
    if (leads())
      log_->knn(trainer_.steps(), eval::knn_accuracy(pool_, bank.view(), bank.labels, queries.view(), queries.labels),
                queries.labels.size());
    static_cast<void>(all_agree(true));  // all have come so far before the next step begins
  }

  Recipe recipe_;
  int per_epoch_;
  const Dataset& train_;
  const Dataset& test_;
  data::Normalization normalization_;
  Backend& backend_;
  Communicator& communicator_;
  ThreadPool pool_;
  Trainer trainer_;
  std::unique_ptr<RunLog> log_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
