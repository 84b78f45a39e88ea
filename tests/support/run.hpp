// Whole runs in tests: data, trainer, source, report, k-NN monitor and checkpoints, as programs put them together.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "support/training.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/idx.hpp"
#include "tessera/data/source.hpp"
#include "tessera/train/callbacks/knn.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/callbacks/save.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/run.hpp"

namespace tessera::test {

// Images of noise with labels.
[[nodiscard]] inline data::IdxDataset noise(int count, int height, int width) {
  Random random(5, Purpose::test, 0, 0);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count * height * width)),
      labels(static_cast<std::size_t>(count));
  for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random.below(256));
  for (auto& label : labels) label = static_cast<std::uint8_t>(random.below(10));
  return {height, width, std::move(pixels), std::move(labels)};
}

// A run of one rank on `images`, which the monitor classifies too. It continues from recipe.resume, if that is set.
template <class Objective, class Backend, template <class, class, class> class Source = data::HostSource>
class WholeRun {
 public:
  using Trainer = TrainerOn<Objective, Backend>;

  // Backend and images must outlive the run.
  WholeRun(Backend& backend, const Recipe& recipe, const data::IdxDataset& images)
      : images_(images),
        recipe_(recipe),
        identity_(recipe.identity(images.size())),
        trainer_(backend, alone_, recipe.make_optimizer(), {.batch = recipe.batch_size, .seed = recipe.seed}),
        run_(resumed(), recipe_, {}, recipe.iterations_per_epoch(images.size())),
        report_(metrics(), trainer_.steps(), true, {{"patch_embed", "base_encoder.patch_embed"}}),
        save_(report_, identity_) {}

  // Trains; true if it came to the recipe's end.
  template <class... Callbacks>
  bool operator()(Callbacks&... callbacks) {
    data::LoaderOptions options;
    options.batch = recipe_.batch_size;
    options.seed = recipe_.seed;
    options.threads = recipe_.workers;
    options.epoch = static_cast<int>(run_.steps() / run_.iterations_per_epoch());
    options.iteration = static_cast<int>(run_.steps() % run_.iterations_per_epoch());
    Source<typename Backend::Scalar, typename Objective::Reads, data::IdxDataset> source(trainer_.backend(), images_,
                                                                                         options);
    KnnMonitor monitor(report_, images_, images_, options.normalization, recipe_.threads);
    return run_(source, report_, monitor, save_, callbacks...);
  }
  void save() { save_.save(run_); }

  [[nodiscard]] Trainer& trainer() { return trainer_; }

 private:
  [[nodiscard]] Trainer& resumed() {
    if (!recipe_.resume.empty()) load_checkpoint(recipe_.resume, trainer_, identity_);
    return trainer_;
  }
  [[nodiscard]] std::filesystem::path metrics() const {
    std::filesystem::create_directories(recipe_.out);
    return recipe_.out / "metrics.jsonl";
  }

  const data::IdxDataset& images_;
  Recipe recipe_;
  Metadata identity_;
  comm::Serial alone_;
  Trainer trainer_;
  Run<Trainer> run_;
  Report report_;
  SaveCheckpoints save_;
};

}  // namespace tessera::test
