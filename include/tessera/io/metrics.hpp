// metrics.jsonl: one JSON object per line, one line per interval. Needs nlohmann-json (tessera::io).
#pragma once

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace io {

using MetricsRow = std::vector<std::pair<std::string, double>>;

// Reads all complete lines; a torn last line, left by a crash, is dropped. A missing file has no rows.
[[nodiscard]] inline std::vector<nlohmann::ordered_json> read_metrics(const std::filesystem::path& path) {
  std::vector<nlohmann::ordered_json> rows;
  if (!std::filesystem::exists(path)) return rows;
  const std::string text = read_file(path, std::uintmax_t{1} << 30);
  std::size_t number = 0;
  for (std::size_t first = 0, end; (end = text.find('\n', first)) != std::string::npos; first = end + 1) {
    ++number;
    rows.push_back(nlohmann::ordered_json::parse(text.substr(first, end - first), nullptr, false));
    if (!rows.back().is_object()) fail("{}: line {} is not a JSON object", path.string(), number);
  }
  return rows;
}

// Appends rows to a file. On resuming at `step`, rows of later steps are dropped first.
class MetricsWriter {
 public:
  MetricsWriter(const std::filesystem::path& path, long step) : path_(path) {
    std::string kept;
    for (const auto& row : read_metrics(path))
      if (row.value("step", 0L) <= step && step > 0) kept += row.dump() + "\n";
    replace_file(path, kept);
    file_.open(path, std::ios::app);
  }

  // Values that are not finite become null.
  void write(const MetricsRow& row) {
    nlohmann::ordered_json line;
    for (const auto& [key, value] : row)
      if (value == std::floor(value) && std::abs(value) < 1e15)
        line[key] = static_cast<std::int64_t>(value);
      else
        line[key] = value;
    file_ << line.dump() << std::endl;
    if (!file_) fail("{}: could not be written; is the disk full?", path_.string());
  }

 private:
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
