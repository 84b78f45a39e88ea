#include "report.hpp"

#include <algorithm>
#include <cmath>

#include "tessera/eval/knn.hpp"
#include "tessera/eval/report.hpp"
#include "tessera/io/metrics.hpp"
#include "tessera/io/npy.hpp"

namespace examples {

namespace {

ts::eval::Series series(const std::vector<nlohmann::ordered_json>& rows, const std::string& name,
                        const std::string& key) {
  ts::eval::Series series{name, {}};
  for (const auto& row : rows)
    if (row.contains(key) && row.at(key).is_number()) series.points.emplace_back(row.at("epoch"), row.at(key));
  return series;
}

ts::eval::Picture picture(ts::data::ImageView image, std::string caption) {
  return {image.height, image.width, image.channels, {image.pixels, image.pixels + image.size()}, std::move(caption)};
}

// Accuracy of k-NN on the pixels themselves: what features must beat.
double raw_pixel_accuracy(ts::ThreadPool& pool, const ts::data::IdxDataset& train, const ts::data::IdxDataset& test,
                          int bank) {
  const auto pixels = [](const ts::data::IdxDataset& set, int limit) {
    const int count = limit < set.size() ? limit : set.size();
    const std::size_t size = set.image(0).size();
    std::vector<float> values(static_cast<std::size_t>(count) * size);
    std::vector<int> labels;
    for (int i = 0; i < count; ++i) {
      std::copy_n(set.image(i).pixels, size, values.begin() + i * static_cast<std::ptrdiff_t>(size));
      labels.push_back(set.label(i));
    }
    return std::pair(std::move(values), std::move(labels));
  };
  const auto width = static_cast<ts::index>(train.image(0).size());
  const auto [bank_pixels, bank_labels] = pixels(train, bank);
  const auto [query_pixels, query_labels] = pixels(test, test.size());
  return ts::eval::knn_accuracy(
      pool, ts::eval::Features<float>{bank_pixels.data(), static_cast<ts::index>(bank_labels.size()), width},
      bank_labels, ts::eval::Features<float>{query_pixels.data(), static_cast<ts::index>(query_labels.size()), width},
      query_labels);
}

ts::eval::Gallery neighbours(ts::ThreadPool& pool, const Results& run) {
  const ts::index queries = std::min<ts::index>(10, run.test.size()), k = std::min<ts::index>(9, run.bank.view().rows);
  const auto found = ts::eval::nearest(
      pool, run.bank.view(), ts::eval::Features<float>{run.queries.values.data(), queries, run.queries.width}, k);
  ts::eval::Gallery gallery{"Nearest neighbours",
                            "Left: a test image. Right: the training images whose features are most similar, with the "
                            "cosine similarity; green frames have the test image's class.",
                            {}};
  for (int q = 0; q < queries; ++q) {
    auto& row = gallery.rows.emplace_back();
    row.push_back(picture(run.test.image(q), run.class_name(run.test.label(q))));
    for (ts::index n = 0; n < k; ++n) {
      const auto& one = found[static_cast<std::size_t>(q * k + n)];
      const int label = run.train.label(one.row);
      row.push_back(picture(run.train.image(one.row), fmt::format("{} {:.2f}", run.class_name(label), one.similarity)));
      row.back().mark = label == run.test.label(q) ? ts::eval::Picture::Mark::good : ts::eval::Picture::Mark::bad;
    }
  }
  return gallery;
}

// A head's attention from the class token to the patches, brightest where it is largest.
ts::eval::Picture heat_map(const float* weights, int grid, std::string caption) {
  float largest = 0;
  for (int p = 0; p < grid * grid; ++p) largest = largest > weights[p] ? largest : weights[p];
  ts::eval::Picture map{grid, grid, 3, {}, std::move(caption)};
  for (int p = 0; p < grid * grid; ++p) {
    const float share = std::sqrt(weights[p] / (largest > 0 ? largest : 1));
    for (const float color : {1.2f * share, 0.9f * share * share, 0.35f + 0.4f * share * (1 - share)})
      map.pixels.push_back(static_cast<std::uint8_t>(255 * (color < 1 ? color : 1)));
  }
  return map;
}

ts::eval::Gallery attention_maps(const Results& run) {
  const auto heads = static_cast<std::size_t>(run.attention.heads),
             tokens = static_cast<std::size_t>(run.attention.tokens);
  const std::size_t images = run.attention.values.size() / (heads * tokens * tokens);
  ts::eval::Gallery gallery{
      "Attention of the class token",
      "Left: a test image. Right: where the class token looks in the last block, one map for each "
      "head, and their mean.",
      {}};
  for (std::size_t i = 0; i < images; ++i) {
    auto& row = gallery.rows.emplace_back();
    const int number = static_cast<int>(i);
    row.push_back(picture(run.test.image(number), run.class_name(run.test.label(number))));
    std::vector<float> mean(tokens - 1);
    for (std::size_t head = 0; head < heads; ++head) {
      const float* const from = run.attention.values.data() + (i * heads + head) * tokens * tokens + 1;
      for (std::size_t p = 0; p < mean.size(); ++p) mean[p] += from[p] / static_cast<float>(heads);
      row.push_back(heat_map(from, run.attention.grid, fmt::format("head {}", head + 1)));
    }
    row.push_back(heat_map(mean.data(), run.attention.grid, "mean"));
  }
  return gallery;
}

void write_report(ts::ThreadPool& pool, const Results& run) {
  using ts::eval::Chart;
  const ts::Recipe& recipe = run.recipe;
  const auto rows = ts::io::read_metrics(run.metrics);
  const double raw = raw_pixel_accuracy(pool, run.train, run.test, recipe.knn_bank);
  const auto knn = series(rows, "k-NN", "knn");
  ts::eval::Report report;
  report.title = "MoCo v3 pre-training";
  report.subtitle = fmt::format("{} on {} images, {} epochs", recipe.arch, run.train.size(), recipe.epochs);
  report.facts = {{"k-NN accuracy", knn.points.empty() ? "" : fmt::format("{:.4f}", knn.points.back().second)},
                  {"of raw pixels", fmt::format("{:.4f}", raw)},
                  {"before training", knn.points.empty() ? "" : fmt::format("{:.4f}", knn.points.front().second)},
                  {"training time", ts::duration_text(run.seconds)},
                  {"images per second", fmt::format("{:.0f}", run.images_per_second)},
                  {"parameters trained", fmt::format("{:.2f} M", run.trained_parameters / 1e6)},
                  {"batch size", std::to_string(recipe.batch_size)},
                  {"base learning rate", fmt::format("{}", recipe.lr)},
                  {"temperature", fmt::format("{}", recipe.moco_t)},
                  {"smallest crop", fmt::format("{}", recipe.crop_min)}};
  report.charts = {Chart{"k-NN accuracy", "epoch", {knn}, {{"raw pixels", raw}}, false},
                   Chart{"Loss", "epoch", {series(rows, "loss", "loss")}, {}, false},
                   Chart{"Gradient norm",
                         "epoch",
                         {series(rows, "patch embedding", "grad_norm_patch_embed"),
                          series(rows, "last block", "grad_norm_last_block")},
                         {},
                         true},
                   Chart{"Learning rate", "epoch", {series(rows, "lr", "lr")}, {}, false},
                   Chart{"Momentum of the momentum encoder", "epoch", {series(rows, "m", "moco_m")}, {}, false}};
  report.galleries = {neighbours(pool, run)};
  if (!run.attention.values.empty()) report.galleries.push_back(attention_maps(run));
  ts::eval::write_report(recipe.out / "report.html", report);
}

}  // namespace

void write_results(const Results& results) {
  const std::filesystem::path& out = results.recipe.out;
  const ts::FeatureSet& features = results.queries;
  ts::io::write_npy(out / "features.npy", features.values.data(), features.labels.size(), features.width);
  ts::io::write_npy(out / "labels.npy", features.labels.data(), features.labels.size(), 1);
  ts::ThreadPool pool(results.recipe.threads);
  write_report(pool, results);
  fmt::print("{}: checkpoint.safetensors, features.npy, labels.npy, metrics.jsonl, report.html\n", out.string());
}

}  // namespace examples
