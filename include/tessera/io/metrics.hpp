// metrics.jsonl: one JSON object per line, one line per interval. Needs nlohmann-json (tessera::io).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
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

// The rows of a file, and the numbers of its damaged lines, from 1.
struct Metrics {
  std::vector<nlohmann::ordered_json> rows;
  std::vector<std::size_t> damaged;
};

namespace detail {

// A row is an object of numbers and nulls with an integer "step".
[[nodiscard]] inline bool is_metrics_row(const nlohmann::ordered_json& row) {
  if (!row.is_object() || !row.contains("step") || !row.at("step").is_number_integer()) return false;
  return std::all_of(row.begin(), row.end(), [](const auto& value) { return value.is_number() || value.is_null(); });
}

}  // namespace detail

// Reads all complete lines; a torn last line, which a crash leaves, counts as none. A missing file has no rows.
[[nodiscard]] inline Metrics read_metrics(const std::filesystem::path& path) {
  Metrics metrics;
  if (!std::filesystem::exists(path)) return metrics;
  const std::string text = read_file(path, std::uintmax_t{1} << 30);
  std::size_t number = 0;
  for (std::size_t first = 0, end; (end = text.find('\n', first)) != std::string::npos; first = end + 1) {
    ++number;
    auto row = nlohmann::ordered_json::parse(text.substr(first, end - first), nullptr, false);
    if (detail::is_metrics_row(row))
      metrics.rows.push_back(std::move(row));
    else
      metrics.damaged.push_back(number);
  }
  return metrics;
}

// Appends rows to a file. On resuming at `step`, rows of later steps and damaged lines are dropped first.
class MetricsWriter {
 public:
  MetricsWriter(const std::filesystem::path& path, long step) : file_(start(path, step, damaged_)) {}

  // The numbers of the damaged lines that were dropped, from 1.
  [[nodiscard]] const std::vector<std::size_t>& damaged() const noexcept { return damaged_; }

  // Values that are not finite become null. Throws Error that names the file if it cannot be written.
  void write(const MetricsRow& row) const {
    nlohmann::ordered_json line;
    for (const auto& [key, value] : row)
      if (value == std::floor(value) && std::abs(value) < 1e15)
        line[key] = static_cast<std::int64_t>(value);
      else
        line[key] = value;
    const std::string text = line.dump() + "\n";
    file_.write(std::as_bytes(std::span(text)));
  }

  // Returns when all rows are on the disk.
  void flush_to_disk() const { file_.flush_to_disk(); }

 private:
  [[nodiscard]] static detail::Descriptor start(const std::filesystem::path& path, long step,
                                                std::vector<std::size_t>& damaged) {
    std::string kept;
    if (step > 0) {
      Metrics metrics = read_metrics(path);
      for (const auto& row : metrics.rows)
        if (row.at("step").get<long>() <= step) kept += row.dump() + "\n";
      damaged = std::move(metrics.damaged);
    }
    replace_file(path, kept);
    return {path, O_WRONLY | O_APPEND};
  }

  std::vector<std::size_t> damaged_;
  detail::Descriptor file_;
};

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
