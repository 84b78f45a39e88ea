// The k-NN accuracy of the encoder's features while it trains.
#pragma once

#include <fmt/format.h>

#include "tessera/core/thread_pool.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/features.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that classifies `test` by its nearest neighbours among at most recipe.knn_bank images of `train`, evenly
// spaced, before the first step and every recipe.knn_every steps (docs/method.md, "k-NN").
template <data::LabelledDataset Images>
class KnnMonitor {
 public:
  // Report and data sets must outlive the monitor. threads = 0 takes every processor.
  KnnMonitor(Report& report, const Images& train, const Images& test, const data::Normalization& normalization,
             int threads = 0)
      : report_(report), train_(train), test_(test), normalization_(normalization), pool_(threads) {}

  template <class Run>
  void begin(Run& run) {
    if (run.steps() == 0) measure(run);
  }
  template <class Run>
  void after(Run& run, const StepReport&) {
    if (run.due(run.recipe().knn_every)) measure(run);
  }

  // Measures and tells the accuracy, given the features of all test images. On all ranks, within run.between_steps.
  template <class Run>
  void tell(Run& run, const FeatureSet& queries) {
    const data::Spread known(train_, run.recipe().knn_bank);
    const FeatureSet bank = features_of(run.trainer(), known, normalization_);
    if (run.leads()) write(run, eval::knn_accuracy(pool_, bank.view(), bank.labels, queries.view(), queries.labels));
  }

 private:
  template <class Run>
  void measure(Run& run) {
    run.between_steps([&] { tell(run, features_of(run.trainer(), test_, normalization_)); });
    static_cast<void>(run.all_agree(true));  // all ranks have come so far before the next step begins
  }
  template <class Run>
  void write(Run& run, double accuracy) {
    report_.row({{"step", static_cast<double>(run.steps())}, {"epoch", run.epoch()}, {"knn", accuracy}});
    report_.show("k-NN", accuracy);
    report_.say(fmt::format("epoch {:6.2f}  k-NN accuracy {:.4f} on {} images", run.epoch(), accuracy, test_.size()));
  }

  Report& report_;
  const Images& train_;
  const Images& test_;
  data::Normalization normalization_;
  ThreadPool pool_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
