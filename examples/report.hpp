// What a pre-training run leaves: features, and a report with curves, nearest neighbours and attention maps.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tessera/data/idx.hpp"
#include "tessera/train/pretrain.hpp"

namespace examples {

namespace ts = tessera;

// What is shown of a finished run.
struct Results {
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

// Writes features.npy and labels.npy, of the test images, and report.html into the run's folder.
void write_results(const Results& results);

}  // namespace examples
