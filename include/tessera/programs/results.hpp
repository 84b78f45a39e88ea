// Writes what a finished run leaves: features, and a page with curves, nearest neighbours and attention maps. Needs
// libpng, nlohmann-json and xtensor (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/thread_pool.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/eval/knn.hpp"
#include "tessera/io/metrics.hpp"
#include "tessera/io/npy.hpp"
#include "tessera/programs/names.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/programs/page.hpp"
#include "tessera/programs/thumbnail.hpp"
#include "tessera/train/callbacks/geometry.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

namespace detail {

[[nodiscard]] inline Series series(const std::vector<nlohmann::ordered_json>& rows, const std::string& name,
                                   const std::string& key) {
  Series series{name, {}};
  for (const auto& row : rows)
    if (row.contains("epoch") && row.contains(key) && row.at(key).is_number())
      series.points.emplace_back(row.at("epoch"), row.at(key));
  return series;
}

// The last geometry of features in the rows; none if no row has one.
[[nodiscard]] inline std::optional<FeatureGeometry> last_geometry(const std::vector<nlohmann::ordered_json>& rows,
                                                                  index width) {
  std::optional<FeatureGeometry> last;
  for (const auto& row : rows) {
    const auto number = [&](const char* key) {
      return row.contains(key) && row.at(key).is_number() ? row.at(key).template get<double>() : std::nan("");
    };
    if (row.contains("effective_rank"))
      last = {width, number("effective_rank"), number("feature_deviation"), number("uniformity"), number("alignment")};
  }
  return last;
}

// The pixels of images as features: of the view of evaluation, at most 32 pixels high and wide.
[[nodiscard]] inline FeatureSet pixels_of(const data::Spread<data::AnyDataset>& images, const Entry& entry) {
  const int side = smaller(entry.size, 32);
  const auto width = static_cast<std::size_t>(side * side * entry.channels);
  FeatureSet set{std::vector<float>(width * static_cast<std::size_t>(images.size())),
                 {},
                 static_cast<index>(width),
                 images.size()};
  data::AugmentScratch scratch;
  for (int i = 0; i < images.size(); ++i) {
    const data::ImageView view = data::evaluation_view(images.decode(i, scratch.decoded), side * 8 / 7, side, scratch);
    float* to = set.values.data() + width * static_cast<std::size_t>(i);
    for (std::size_t at = 0; at < view.size(); at += static_cast<std::size_t>(view.channels))
      for (int c = 0; c < entry.channels; ++c)
        *to++ = view.pixels[at + static_cast<std::size_t>(view.channels == 1 ? 0 : c)];
    set.labels.push_back(images.label(i));
  }
  return set;
}

// The accuracy of k-NN on the pixels themselves, which features must beat.
[[nodiscard]] inline double raw_pixel_accuracy(ThreadPool& pool, const Pictures& pictures, const Entry& entry,
                                               const Recipe& recipe) {
  const FeatureSet bank = pixels_of(data::Spread(pictures.train, recipe.knn_bank), entry);
  const FeatureSet queries = pixels_of(data::Spread(pictures.test, recipe.knn_queries), entry);
  return eval::knn_accuracy(pool, bank.view(), bank.labels, queries.view(), queries.labels);
}

// A head's attention from the class token to the patches, brightest where it is largest.
[[nodiscard]] inline Picture heat_map(const float* weights, int grid, std::string caption) {
  float largest = 0;
  for (int p = 0; p < grid * grid; ++p) largest = largest > weights[p] ? largest : weights[p];
  Picture map{grid, grid, 3, {}, std::move(caption)};
  for (int p = 0; p < grid * grid; ++p) {
    const float share = std::sqrt(weights[p] / (largest > 0 ? largest : 1));
    for (const float color : {1.2f * share, 0.9f * share * share, 0.35f + 0.4f * share * (1 - share)})
      map.pixels.push_back(static_cast<std::uint8_t>(255 * (color < 1 ? color : 1)));
  }
  return map;
}

// The page of one run.
class RunPage {
 public:
  RunPage(const Options& options, const Entry& entry, const std::vector<SettingFlag>& settings,
          const Pictures& pictures, const Results& results)
      : options_(options),
        entry_(entry),
        settings_(settings),
        pictures_(pictures),
        results_(results),
        pool_(options.recipe.threads) {}

  void write() {
    const Recipe& recipe = options_.recipe;
    const auto rows = io::read_metrics(recipe.metrics()).rows;
    const auto knn = series(rows, "k-NN", "knn");
    const auto geometry = last_geometry(rows, results_.queries.width);
    std::optional<double> raw;
    if (!knn.points.empty()) raw = raw_pixel_accuracy(pool_, pictures_, entry_, recipe);
    Page page;
    page.title = fmt::format("{} training", entry_.objective);
    page.subtitle = fmt::format("{} on {} images, {} epochs, in {}", recipe.arch, pictures_.train.size(), recipe.epochs,
                                entry_.precision);
    if (geometry && geometry->collapsed()) page.warning = "Warning: " + geometry->warning() + ".";
    page.facts = facts(knn, raw, geometry);
    page.charts = charts(rows, knn, raw);
    if (geometry) add_geometry_charts(rows, *geometry, page.charts);
    page.galleries = {neighbours()};
    if (results_.attention) page.galleries.push_back(attention_maps(*results_.attention));
    write_page(recipe.out / "report.html", page);
  }

 private:
  using Facts = std::vector<std::pair<std::string, std::string>>;

  [[nodiscard]] std::string class_name(int label) const {
    const auto at = static_cast<std::size_t>(label);
    return at < options_.class_names.size() ? options_.class_names[at] : std::to_string(label);
  }

  [[nodiscard]] Facts facts(const Series& knn, std::optional<double> raw,
                            const std::optional<FeatureGeometry>& geometry) const {
    const Recipe& recipe = options_.recipe;
    Facts facts;
    if (!knn.points.empty()) {
      facts.push_back({"k-NN accuracy", fmt::format("{:.4f}", knn.points.back().second)});
      if (raw) facts.push_back({"of raw pixels", fmt::format("{:.4f}", *raw)});
      facts.push_back({"before training", fmt::format("{:.4f}", knn.points.front().second)});
    }
    if (geometry) {
      facts.push_back({"effective rank", fmt::format("{:.1f} of {}", geometry->effective_rank, geometry->width)});
      facts.push_back({"feature deviation", fmt::format("{:.3f} of {:.3f}", geometry->deviation, geometry->spread())});
    }
    facts.push_back({"training time", duration_text(results_.seconds)});
    facts.push_back({"images per second", fmt::format("{:.0f}", results_.images_per_second)});
    facts.push_back({"parameters trained", fmt::format("{:.2f} M", results_.trained_parameters / 1e6)});
    facts.push_back({"batch size", std::to_string(recipe.batch_size)});
    facts.push_back({"base learning rate", fmt::format("{}", recipe.lr)});
    for (const SettingFlag& setting : settings_)
      facts.push_back({setting.help, fmt::format("{}", setting.value.start)});
    facts.push_back({"smallest crop", fmt::format("{}", recipe.crop_min)});
    if (pictures_.damaged && pictures_.damaged->count() > 0)
      facts.push_back({"damaged pictures (damaged.txt)", std::to_string(pictures_.damaged->count())});
    return facts;
  }

  [[nodiscard]] std::vector<Chart> charts(const std::vector<nlohmann::ordered_json>& rows, const Series& knn,
                                          std::optional<double> raw) const {
    std::vector<Chart> charts;
    if (!knn.points.empty()) {
      charts.push_back({"k-NN accuracy", "epoch", {knn}, {}, false});
      if (raw) charts.back().references.push_back({"raw pixels", *raw});
    }
    charts.push_back({"Loss", "epoch", {series(rows, "loss", "loss")}, {}, false});
    charts.push_back(
        {"Gradient norm",
         "epoch",
         {series(rows, "patch embedding", "grad_norm_patch_embed"), series(rows, "last block", "grad_norm_last_block")},
         {},
         true});
    charts.push_back({"Learning rate", "epoch", {series(rows, "lr", "lr")}, {}, false});
    for (const SettingFlag& setting : settings_)
      if (setting.value.cosine)
        charts.push_back(
            {setting.help, "epoch", {series(rows, setting.name, objectives::key_of(setting.name))}, {}, false});
    return charts;
  }

  static void add_geometry_charts(const std::vector<nlohmann::ordered_json>& rows, const FeatureGeometry& geometry,
                                  std::vector<Chart>& charts) {
    charts.push_back(
        {"Effective rank of features", "epoch", {series(rows, "effective rank", "effective_rank")}, {}, false});
    charts.push_back({"Deviation of features of length 1",
                      "epoch",
                      {series(rows, "deviation", "feature_deviation")},
                      {{"spread evenly", geometry.spread()}},
                      false});
    charts.push_back({"Alignment of two views, and uniformity",
                      "epoch",
                      {series(rows, "alignment", "alignment"), series(rows, "uniformity", "uniformity")},
                      {},
                      false});
  }

  [[nodiscard]] Gallery neighbours() {
    const FeatureSet& test = results_.queries;
    const data::Spread asked(pictures_.test, 10), known(pictures_.train, static_cast<int>(results_.bank.rows));
    std::vector<float> queries;
    for (int q = 0; q < asked.size(); ++q) {
      const float* const row = test.values.data() + asked.number(q) * test.width;
      queries.insert(queries.end(), row, row + test.width);
    }
    const index k = smaller(index{9}, results_.bank.rows);
    const auto found =
        eval::nearest(pool_, results_.bank.view(), eval::Features<float>{queries.data(), asked.size(), test.width}, k);
    const bool labelled = pictures_.train.labelled() && pictures_.test.labelled();
    Gallery gallery{"Nearest neighbours",
                    fmt::format("Left: a test image. Right: the training images whose features are most similar, with "
                                "the cosine similarity{}.",
                                labelled ? "; green frames have the test image's class" : ""),
                    {}};
    data::Image scratch;
    for (int q = 0; q < asked.size(); ++q) {
      auto& row = gallery.rows.emplace_back();
      const int own = asked.label(q);
      row.push_back(thumbnail(asked.decode(q, scratch), labelled ? class_name(own) : ""));
      for (index n = 0; n < k; ++n) {
        const auto& one = found[static_cast<std::size_t>(q * k + n)];
        const int label = known.label(one.row);
        row.push_back(thumbnail(known.decode(one.row, scratch),
                                fmt::format("{} {:.2f}", labelled ? class_name(label) : "", one.similarity)));
        if (labelled) row.back().mark = label == own ? Picture::Mark::good : Picture::Mark::bad;
      }
    }
    return gallery;
  }

  [[nodiscard]] Gallery attention_maps(const AttentionMaps& maps) const {
    const auto heads = static_cast<std::size_t>(maps.heads), tokens = static_cast<std::size_t>(maps.tokens);
    const std::size_t images = maps.values.size() / (heads * tokens * tokens);
    Gallery gallery{"Attention of the class token",
                    "Left: a test image. Right: where the class token looks in the last block, one map for each "
                    "head, and their mean.",
                    {}};
    const data::Spread shown(pictures_.test, static_cast<int>(images));
    data::Image scratch;
    for (std::size_t i = 0; i < images; ++i) {
      auto& row = gallery.rows.emplace_back();
      const int number = static_cast<int>(i);
      row.push_back(
          thumbnail(shown.decode(number, scratch), pictures_.test.labelled() ? class_name(shown.label(number)) : ""));
      std::vector<float> mean(tokens - 1);
      for (std::size_t head = 0; head < heads; ++head) {
        const float* const from = maps.values.data() + (i * heads + head) * tokens * tokens + 1;
        for (std::size_t p = 0; p < mean.size(); ++p) mean[p] += from[p] / static_cast<float>(heads);
        row.push_back(heat_map(from, maps.grid, fmt::format("head {}", head + 1)));
      }
      row.push_back(heat_map(mean.data(), maps.grid, "mean"));
    }
    return gallery;
  }

  const Options& options_;
  const Entry& entry_;
  const std::vector<SettingFlag>& settings_;
  const Pictures& pictures_;
  const Results& results_;
  ThreadPool pool_;
};

}  // namespace detail

// Writes features.npy, features.names.txt (where images have names), labels.npy (where they have labels) and
// report.html into the run's folder, each whole or not at all; returns an exit code. A signal ends it between two
// files.
inline int write_results(const Options& options, const Entry& entry, const std::vector<SettingFlag>& settings,
                         const Pictures& pictures, const Results& results) {
  const std::filesystem::path& out = options.recipe.out;
  const FeatureSet& features = results.queries;
  const auto write = [&](auto&& body) {
    if (StopSignals::caught() == 0) body();
  };
  write([&] {
    io::write_npy(out / "features.npy", features.values.data(), static_cast<std::size_t>(features.rows),
                  static_cast<std::size_t>(features.width));
  });
  const bool labelled = pictures.test.labelled();
  if (labelled) write([&] { io::write_npy(out / "labels.npy", features.labels.data(), features.labels.size(), 1); });
  const bool named = !pictures.test.name(0).empty();
  if (named) write([&] { write_names(names_file(out / "features.npy"), picture_names(pictures.test)); });
  write([&] { detail::RunPage(options, entry, settings, pictures, results).write(); });
  if (StopSignals::caught() != 0) {
    print(stopped_at_results(options.recipe) + "\n");
    return exit_code::stopped;
  }
  print(fmt::format("{}: checkpoint.safetensors, features.npy, {}{}metrics.jsonl, report.html\n", out.string(),
                    named ? "features.names.txt, " : "", labelled ? "labels.npy, " : ""));
  return 0;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
