// Reference tensors written by the PyTorch oracle (tests/reference), and comparison with them. Reads the files by
// itself, so that the library's own reader is not trusted to test the rest.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/test_data.hpp"
#include "tessera/core/layout.hpp"

namespace tessera::test {

struct Tensor {
  std::vector<long> shape;
  std::vector<double> values;
};

class Fixture {
 public:
  explicit Fixture(const std::string& name) : name_(name) {
    std::ifstream file(test_data() + "/fixtures/" + name + ".safetensors", std::ios::binary);
    if (!file) throw std::runtime_error("fixture " + name + " is missing");
    std::uint64_t length = 0;
    file.read(reinterpret_cast<char*>(&length), 8);
    std::string header(length, ' ');
    file.read(header.data(), static_cast<std::streamsize>(length));
    const std::string data((std::istreambuf_iterator<char>(file)), {});
    const nlohmann::json entries = nlohmann::json::parse(header);
    for (const auto& [key, value] : entries.items())
      if (key == "__metadata__")
        metadata_ = value.get<std::map<std::string, std::string>>();
      else
        tensors_[key] = parse(value, data);
  }

  [[nodiscard]] bool contains(const std::string& key) const { return tensors_.contains(key); }
  [[nodiscard]] const Tensor& tensor(const std::string& key) const {
    if (!contains(key)) throw std::runtime_error("fixture " + name_ + " has no tensor " + key);
    return tensors_.at(key);
  }
  [[nodiscard]] double number(const std::string& key) const { return std::stod(metadata_.at(key)); }
  // A text of the metadata; empty if there is none.
  [[nodiscard]] std::string text(const std::string& key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? std::string() : found->second;
  }
  [[nodiscard]] const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  template <class Scalar>
  [[nodiscard]] std::vector<Scalar> values(const std::string& key) const {
    const auto& from = tensor(key).values;
    return {from.begin(), from.end()};
  }

  // Copies every entry's tensor `prefix + name` into flat buffers, wherever the fixture has it.
  template <class Scalar>
  void load(std::span<const Entry> entries, const std::string& prefix, Scalar* parameters, Scalar* statistics) const {
    for (const Entry& entry : entries) {
      const Tensor& from = tensor(prefix + std::string(entry.name.view()));
      ASSERT_EQ(static_cast<index>(from.values.size()), entry.size()) << entry.name.view();
      Scalar* const to = (entry.role == Role::statistic ? statistics : parameters) + entry.offset;
      for (std::size_t i = 0; i < from.values.size(); ++i) to[i] = static_cast<Scalar>(from.values[i]);
    }
  }

 private:
  static Tensor parse(const nlohmann::json& value, const std::string& data) {
    Tensor tensor{value.at("shape").get<std::vector<long>>(), {}};
    const auto offsets = value.at("data_offsets").get<std::vector<std::size_t>>();
    const std::string type = value.at("dtype");
    const auto read = [&]<class Stored>(Stored) {
      std::vector<Stored> stored((offsets[1] - offsets[0]) / sizeof(Stored));
      std::memcpy(stored.data(), data.data() + offsets[0], offsets[1] - offsets[0]);
      for (const Stored one : stored) tensor.values.push_back(static_cast<double>(one));
    };
    if (type == "F64") read(double{});
    if (type == "F32") read(float{});
    if (type == "I64") read(std::int64_t{});
    if (type == "U8") read(std::uint8_t{});
    return tensor;
  }

  std::string name_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Largest difference relative to the reference's largest magnitude, or to 0.01 where all of the reference is smaller:
// some gradients are zero in exact arithmetic (of a bias in front of BatchNorm), and the reference holds rounding
// noise.
template <class Scalar>
[[nodiscard]] double relative_error(const Scalar* values, const std::vector<double>& expected) {
  double difference = 0, magnitude = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double off = std::abs(static_cast<double>(values[i]) - expected[i]);
    difference = off > difference || std::isnan(off) ? off : difference;
    magnitude = std::max(magnitude, std::abs(expected[i]));
  }
  return difference / std::max(magnitude, 1e-2);
}

// 1e-9 in double and 1e-4 in float, as the library promises.
template <class Scalar>
inline constexpr double tolerance = sizeof(Scalar) == 8 ? 1e-9 : 1e-4;

template <class Scalar>
void expect_close(const std::string& what, const Scalar* values, const Tensor& expected,
                  double bound = tolerance<Scalar>) {
  const double error = relative_error(values, expected.values);
  EXPECT_TRUE(error <= bound) << what << " is off by " << error << ", allowed " << bound;
}

// Compares every entry that the fixture holds as prefix + name; returns how many there were.
template <class Scalar>
int expect_entries_close(const Fixture& fixture, std::span<const Entry> entries, const std::string& prefix,
                         const Scalar* parameters, const Scalar* statistics, double bound = tolerance<Scalar>) {
  int compared = 0;
  for (const Entry& entry : entries) {
    const std::string key = prefix + std::string(entry.name.view());
    const Scalar* const base = entry.role == Role::statistic ? statistics : parameters;
    if (base == nullptr || !fixture.contains(key)) continue;
    expect_close(key, base + entry.offset, fixture.tensor(key), bound);
    ++compared;
  }
  return compared;
}

}  // namespace tessera::test
