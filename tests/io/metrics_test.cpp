#include "tessera/io/metrics.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace tessera::test {
namespace {

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + "_" + name);
}

TEST(Metrics, ResumingDropsLaterRowsAndATornLine) {
  const auto path = scratch("metrics.jsonl");
  {
    io::MetricsWriter writer(path, 0);
    for (int step = 1; step <= 5; ++step) writer.write({{"step", step}, {"loss", 0.5 * step}});
    writer.write({{"step", 6}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  }
  EXPECT_TRUE(io::read_metrics(path).back().at("loss").is_null());
  std::ofstream(path, std::ios::app) << "{\"step\": 7, \"lo";
  io::MetricsWriter(path, 3).write({{"step", 4}, {"loss", 9.0}});
  const auto rows = io::read_metrics(path);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2].at("loss"), 1.5);
  EXPECT_EQ(rows[3].at("loss"), 9);
  io::MetricsWriter(path, 0);
  EXPECT_TRUE(io::read_metrics(path).empty());
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tessera::test
