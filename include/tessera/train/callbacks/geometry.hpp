// The geometry of the encoder's features while it trains: figures that need no labels.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/index.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/thread_pool.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/dataset.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/eval/geometry.hpp"
#include "tessera/io/metrics.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/features.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The figures of features of one width (docs/method.md, 5.4).
struct FeatureGeometry {
  index width = 0;
  double effective_rank = 0, deviation = 0, uniformity = 0, alignment = 0;

  // The mean deviation of features that are spread evenly over all directions.
  [[nodiscard]] double spread() const { return 1 / std::sqrt(static_cast<double>(width)); }
  [[nodiscard]] bool collapsed() const { return eval::have_collapsed(effective_rank, deviation, width); }
  // The sentence for a user whose features have collapsed.
  [[nodiscard]] std::string warning() const {
    return fmt::format(
        "the features have collapsed: all pictures have nearly the same feature (effective rank {:.1f} of {}, "
        "deviation {:.2g} of {:.4f}); a smaller learning rate, a longer warm-up or a larger batch often helps",
        effective_rank, width, deviation, spread());
  }
};

namespace detail {

// One random view of size x size pixels of each image, the same whenever it is decoded: view `number` of the stream of
// monitors (docs/method.md, 1.4).
template <data::Dataset Images>
struct FixedViews {
  const Images& images;
  const data::ViewAugmentation& view;
  int pixels;
  std::uint64_t seed;
  std::uint32_t number;

  [[nodiscard]] int size() const { return images.size(); }
  [[nodiscard]] data::ImageView decode(int i, data::Image& scratch) const {
    data::AugmentScratch work;
    Random random(seed, Purpose::monitor, number, static_cast<std::uint32_t>(i));
    data::random_view(images.decode(i, work.decoded), view, pixels, random, work);
    std::swap(scratch, work.view);
    return scratch;
  }
};

}  // namespace detail

// A callback that tells the geometry of the features of at most `most` test pictures, evenly spaced, before the first
// step and every recipe.knn_every steps, and says once if they have collapsed. Fewer than 2 pictures have no geometry.
template <data::Dataset Images>
class GeometryMonitor {
 public:
  static constexpr int most = 2048;

  // view: the augmentation whose two views of a picture should have features that are alike. Report and data set must
  // outlive the monitor. threads = 0 takes every processor.
  GeometryMonitor(Report& report, const Images& test, const data::Normalization& normalization,
                  const data::ViewAugmentation& view, int threads = 0)
      : report_(report), pictures_(test, most), normalization_(normalization), view_(view), pool_(threads) {}

  template <class Run>
  void begin(Run& run) {
    if (run.steps() == 0) measure(run);
  }
  template <class Run>
  void after(Run& run, const StepReport&) {
    if (run.due(run.recipe().knn_every)) measure(run);
  }

  // Measures and tells the geometry, given the features of all test pictures. On all ranks, within run.between_steps.
  template <class Run>
  void tell(Run& run, const FeatureSet& all) {
    if (pictures_.size() < 2) return;
    FeatureSet some{{}, {}, all.width, pictures_.size()};
    for (int i = 0; i < pictures_.size(); ++i) {
      const auto row = all.values.begin() + pictures_.number(i) * all.width;
      some.values.insert(some.values.end(), row, row + all.width);
    }
    tell_of(run, some);
  }

 private:
  template <class Run>
  void measure(Run& run) {
    if (pictures_.size() < 2) return;
    run.between_steps([&] { tell_of(run, features_of(run.trainer(), pictures_, normalization_)); });
    static_cast<void>(run.all_agree(true));  // all ranks have come so far before the next step begins
  }

  template <class Run>
  void tell_of(Run& run, const FeatureSet& features) {
    const FeatureSet first = features_of_view(run, 0), second = features_of_view(run, 1);
    if (!run.leads()) return;
    const eval::Features<float> z = features.view();
    write(run, {z.width, eval::effective_rank(z), eval::mean_deviation(z), eval::uniformity(pool_, z),
                eval::alignment(first.view(), second.view())});
  }
  template <class Run>
  [[nodiscard]] FeatureSet features_of_view(Run& run, std::uint32_t number) {
    const detail::FixedViews<data::Spread<Images>> views{pictures_, view_, Run::Trainer::Encoder::Image::size,
                                                         run.recipe().seed, number};
    return features_of(run.trainer(), views, normalization_);
  }

  template <class Run>
  void write(Run& run, const FeatureGeometry& geometry) {
    io::MetricsRow row{{"step", static_cast<double>(run.steps())},  {"epoch", run.epoch()},
                       {"effective_rank", geometry.effective_rank}, {"feature_deviation", geometry.deviation},
                       {"uniformity", geometry.uniformity},         {"alignment", geometry.alignment}};
    if (geometry.collapsed()) row.push_back({"collapsed", 1});
    report_.row(row);
    report_.show("effective rank", geometry.effective_rank);
    report_.say(
        fmt::format("epoch {:6.2f}  effective rank {:.1f} of {}, deviation {:.4f} of {:.4f}, uniformity {:.3f}, "
                    "alignment {:.3f}",
                    run.epoch(), geometry.effective_rank, geometry.width, geometry.deviation, geometry.spread(),
                    geometry.uniformity, geometry.alignment));
    if (geometry.collapsed() && !std::exchange(warned_, true)) report_.say(geometry.warning());
  }

  Report& report_;
  data::Spread<Images> pictures_;
  data::Normalization normalization_;
  data::ViewAugmentation view_;
  ThreadPool pool_;
  bool warned_ = false;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
