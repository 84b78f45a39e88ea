// The figures that a run tells about the encoder's features while it trains.
#pragma once

#include <optional>

#include "tessera/data/augment.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/train/callbacks/geometry.hpp"
#include "tessera/train/callbacks/knn.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/features.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that is a GeometryMonitor, and a KnnMonitor where the pictures have labels; test pictures are encoded once
// for both.
template <data::LabelledDataset Images>
class Monitors {
 public:
  // labelled: both data sets have labels. Report and data sets must outlive the monitors. threads = 0 takes every
  // processor.
  Monitors(Report& report, const Images& train, const Images& test, bool labelled,
           const data::Normalization& normalization, const data::ViewAugmentation& view, int threads = 0)
      : test_(test), normalization_(normalization), geometry_(report, test, normalization, view, threads) {
    if (labelled) knn_.emplace(report, train, test, normalization, threads);
  }

  template <class Run>
  void begin(Run& run) {
    if (!knn_)
      geometry_.begin(run);
    else if (run.steps() == 0)
      measure(run);
  }
  template <class Run>
  void after(Run& run, const StepReport& step) {
    if (!knn_)
      geometry_.after(run, step);
    else if (run.due(run.recipe().knn_every))
      measure(run);
  }

 private:
  template <class Run>
  void measure(Run& run) {
    run.between_steps([&] {
      const FeatureSet features = features_of(run.trainer(), test_, normalization_);
      geometry_.tell(run, features);
      knn_->tell(run, features);
    });
    static_cast<void>(run.all_agree(true));  // all ranks have come so far before the next step begins
  }

  const Images& test_;
  data::Normalization normalization_;
  GeometryMonitor<Images> geometry_;
  std::optional<KnnMonitor<Images>> knn_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
