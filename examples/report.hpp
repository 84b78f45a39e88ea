// The report of a pre-training run: curves, nearest neighbours, attention maps.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tessera/data/idx.hpp"
#include "tessera/train/pretrain.hpp"

namespace examples {

namespace ts = tessera;

// What the report shows of a finished run.
struct ReportInput {
  const ts::Recipe& recipe;
  const ts::data::IdxDataset& train;
  const ts::data::IdxDataset& test;
  const std::vector<std::string>& class_names;  // where it has none for a label, the label's number stands
  std::filesystem::path metrics;
  double trained_parameters, seconds, images_per_second;
  ts::FeatureSet bank, queries;  // features of the first training images, and of the test images
  ts::AttentionMaps attention;   // of the first test images; empty if there is no class token

  [[nodiscard]] std::string class_name(int label) const {
    const auto at = static_cast<std::size_t>(label);
    return at < class_names.size() ? class_names[at] : std::to_string(label);
  }
};

// Writes report.html into the run's folder.
void write_report(ts::ThreadPool& pool, const ReportInput& run);

}  // namespace examples
