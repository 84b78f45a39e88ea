// Features with the names of their pictures, as text. Needs xtensor (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/data/any_dataset.hpp"
#include "tessera/io/file.hpp"
#include "tessera/train/features.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// The name of each picture; its number, from 0, where the data set has no names. Throws Error for a name with a line
// break, since files of names have one on each line.
[[nodiscard]] inline std::vector<std::string> picture_names(const data::AnyDataset& images) {
  std::vector<std::string> names;
  names.reserve(static_cast<std::size_t>(images.size()));
  for (int i = 0; i < images.size(); ++i) {
    std::string name = images.name(i);
    if (name.find_first_of("\n\r") != std::string::npos)
      fail("picture {} has a line break in its name, '{}': files of names have one on each line; rename it", i, name);
    names.push_back(name.empty() ? std::to_string(i) : std::move(name));
  }
  return names;
}

// The file of names beside a file of features: features.names.txt beside features.npy.
[[nodiscard]] inline std::filesystem::path names_file(std::filesystem::path features) {
  return features.replace_extension(".names.txt");
}

// Writes the names, one on each line, whole or not at all.
inline void write_names(const std::filesystem::path& path, const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += name + "\n";
  io::replace_file(path, text);
}

// A field of CSV by RFC 4180: in quotes, with inner quotes doubled, if it holds a comma, a quote or a line break.
[[nodiscard]] inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\n\r") == std::string_view::npos) return std::string(text);
  std::string field = "\"";
  for (const char letter : text) field += letter == '"' ? std::string("\"\"") : std::string(1, letter);
  return field + "\"";
}

// The table "name,label,f0,f1,...", without labels if there are none. From its numbers the same floats are read.
[[nodiscard]] inline std::string features_csv(const FeatureSet& features, const std::vector<std::string>& names) {
  const bool labelled = !features.labels.empty();
  std::string table = labelled ? "name,label" : "name";
  for (index column = 0; column < features.width; ++column) table += fmt::format(",f{}", column);
  table += '\n';
  for (std::size_t row = 0; row < names.size(); ++row) {
    table += csv_field(names[row]);
    if (labelled) table += fmt::format(",{}", features.labels[row]);
    const float* const values = features.values.data() + static_cast<index>(row) * features.width;
    for (index column = 0; column < features.width; ++column)
      fmt::format_to(std::back_inserter(table), ",{}", values[column]);
    table += '\n';
  }
  return table;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
