// The program that tells how good an encoder's features are: linear probe and k-NN, top-1 and top-5. Needs CLI11, zlib
// and nlohmann-json (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tessera/core/thread_pool.hpp"
#include "tessera/eval/accuracy.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/eval/linear_probe.hpp"
#include "tessera/programs/command.hpp"
#include "tessera/programs/extract.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/programs/pictures.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

namespace detail {

// The share of labels that are among the k largest scores.
[[nodiscard]] inline double top_accuracy(const std::vector<float>& scores, const std::vector<int>& labels, int k) {
  return static_cast<double>(eval::top_hits(std::span<const float>(scores), std::span<const int>(labels), k)) /
         static_cast<double>(labels.size());
}

inline void print_accuracy(const std::string& name, const std::vector<float>& scores, const std::vector<int>& labels) {
  fmt::print("{:<28} top-1 {:.4f}  top-5 {:.4f}\n", name, top_accuracy(scores, labels, 1),
             top_accuracy(scores, labels, 5));
}

inline void probe_knn(const FeatureSet& train, const FeatureSet& test, int classes, const std::vector<int>& neighbours,
                      double temperature, int threads) {
  ThreadPool pool(threads);
  for (const int k : neighbours)
    print_accuracy(
        fmt::format("k-NN, k = {}", k),
        eval::knn_votes(pool, train.view(), train.labels, test.view(), classes, {.k = k, .temperature = temperature}),
        test.labels);
}

// Returns the best top-1 accuracy of all rates.
inline double probe_linear(const FeatureSet& train, const FeatureSet& test, int classes,
                           const eval::ProbeOptions& options) {
  eval::LinearProbe<float> probe(train.width, classes, optim::Sgd{.weight_decay = 0}, options);
  probe.train(train.view(), train.labels);
  double best = 0;
  for (int k = 0; k < probe.count(); ++k) {
    const std::vector<float> scores = probe.scores(k, test.view());
    print_accuracy(fmt::format("linear, rate {}", options.rates[static_cast<std::size_t>(k)]), scores, test.labels);
    best = larger(best, top_accuracy(scores, test.labels, 1));
  }
  return best;
}

}  // namespace detail

// Encodes training and test images once, trains linear classifiers at several rates, and asks nearest neighbours.
inline int probe(int argc, char** argv, const std::vector<Entry>& entries) {
  DataOptions data;
  std::string checkpoint;
  eval::ProbeOptions options;
  std::vector<int> neighbours{1, 10, 20, 100, 200};
  double temperature = 0.07;
  CLI::App app("Linear probe and k-NN on the features of a checkpoint of pretrain.");
  set_up(app);
  add_data_flags(app, data);
  app.add_option("--checkpoint", checkpoint, "checkpoint.safetensors of a run")->required();
  app.add_option("--epochs", options.epochs, "epochs of the linear classifiers");
  app.add_option("-b,--batch-size", options.batch, "features per step");
  app.add_option("--lr", options.rates, "learning rates, with commas between; each trains a classifier of its own")
      ->delimiter(',')
      ->take_all();
  app.add_flag("--batch-norm", options.normalize, "BatchNorm without weight and bias in front of the classifiers");
  app.add_option("--knn", neighbours, "numbers of nearest neighbours, with commas between")->delimiter(',')->take_all();
  app.add_option("--knn-t", temperature, "temperature of the neighbours' votes")->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "seed of initial weights and order")->check(CLI::Range(0.0, 1e18));
  app.add_option("--threads", options.threads, "threads that compute; 0: every processor")->check(CLI::Range(0, 1024));
  if (!parse(app, argc, argv)) return 0;
  options.check();
  for (const int k : neighbours)
    if (k < 1) fail("--knn must be at least 1, not {}", k);

  const Entry& entry = entry_of(checkpoint, entries);
  Stopwatch clock;
  const Pictures pictures = open_pictures(data);
  if (!pictures.train.labelled() || !pictures.test.labelled())
    fail("--data {}: has no labels, by which features are judged", data.path);
  const FeatureSet train = entry.encode(checkpoint, pictures.train, options.threads);
  const FeatureSet test = entry.encode(checkpoint, pictures.test, options.threads);
  fmt::print("{}: {} + {} images of {} features in {:.1f} s\n", entry.arch, train.rows, test.rows, train.width,
             clock.seconds());
  const int classes = 1 + *std::max_element(train.labels.begin(), train.labels.end());
  const Stopwatch knn_clock;
  detail::probe_knn(train, test, classes, neighbours, temperature, options.threads);
  fmt::print("k-NN in {:.1f} s\n", knn_clock.seconds());
  const Stopwatch linear_clock;
  const double best = detail::probe_linear(train, test, classes, options);
  fmt::print("linear probe: best top-1 {:.4f}, {} epochs in {:.1f} s\n", best, options.epochs, linear_clock.seconds());
  if (std::fflush(stdout) != 0) fail("standard output: the results could not be written: {}", std::strerror(errno));
  return 0;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
