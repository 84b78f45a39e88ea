#include "tessera/io/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace tessera::test {
namespace {

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + "_" + name);
}

[[nodiscard]] std::vector<long> steps(const io::Metrics& metrics) {
  std::vector<long> steps;
  for (const auto& row : metrics.rows) steps.push_back(row.at("step").get<long>());
  return steps;
}

class Metrics : public testing::Test {
 protected:
  ~Metrics() override { std::filesystem::remove(path); }

  void write(const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }

  const std::filesystem::path path = scratch("metrics.jsonl");
};

TEST_F(Metrics, ResumingDropsLaterRowsAndATornLine) {
  {
    const io::MetricsWriter writer(path, 0);
    for (int step = 1; step <= 5; ++step) writer.write({{"step", step}, {"loss", 0.5 * step}});
    writer.write({{"step", 6}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  }
  EXPECT_TRUE(io::read_metrics(path).rows.back().at("loss").is_null());
  std::ofstream(path, std::ios::app) << "{\"step\": 7, \"lo";
  const io::MetricsWriter writer(path, 3);
  EXPECT_THAT(writer.damaged(), testing::IsEmpty());
  writer.write({{"step", 4}, {"loss", 9.0}});
  const auto rows = io::read_metrics(path).rows;
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2].at("loss"), 1.5);
  EXPECT_EQ(rows[3].at("loss"), 9);
  const io::MetricsWriter anew(path, 0);
  EXPECT_TRUE(io::read_metrics(path).rows.empty());
}

// Lines of other programs, of bad disks and of power losses.
TEST_F(Metrics, ADamagedLineCostsThatLine) {
  const std::string row = "{\"step\":1,\"loss\":0.5}\n";
  for (const std::string& line :
       {std::string("{\"step\":2,\"lo"), std::string("{\"step\":2.5}"), std::string("{\"step\":\"2\"}"),
        std::string("{\"loss\":2}"), std::string("[2]"), std::string("2"), std::string(4096, '\0'), std::string(),
        std::string("{\"step\":2,\"loss\":\"low\"}"), std::string("{\"step\":2,\"a\":{}}"),
        std::string("{\"step\":2,\"\xff\":1}"), std::string("{\"step\":2,\"loss\":1e999}"), std::string(100000, '['),
        std::string("{\"step\":99999999999999999999}")}) {
    write(row + line + "\n" + row);
    const io::Metrics metrics = io::read_metrics(path);
    EXPECT_THAT(steps(metrics), testing::ElementsAre(1, 1)) << line.substr(0, 100);
    EXPECT_THAT(metrics.damaged, testing::ElementsAre(2)) << line.substr(0, 100);
    const io::MetricsWriter writer(path, 5);
    EXPECT_THAT(writer.damaged(), testing::ElementsAre(2));
    EXPECT_EQ(io::read_file(path, 1 << 20), row + row);
  }
}

}  // namespace
}  // namespace tessera::test
