// A trainer's whole state in one safetensors file. Needs nlohmann-json (tessera::io).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::inline TESSERA_ABI {

using Metadata = std::map<std::string, std::string>;

namespace detail {

inline std::vector<std::int64_t> extents(const Shape& shape) {
  return {shape.extents.begin(), shape.extents.begin() + shape.rank};
}

inline bool is_batch_count(const std::string& name) {
  return name.ends_with("num_batches_tracked");
}

}  // namespace detail

// Writes networks, BatchNorm statistics, optimizer state and the step, atomically. Random numbers are counted, not
// stepped, so that the seed and the step, which are in the metadata, are their whole state.
template <class Trainer>
void save_checkpoint(const std::filesystem::path& path, Trainer& trainer, Metadata metadata) {
  using Scalar = typename Trainer::Scalar;
  constexpr io::Dtype dtype = sizeof(Scalar) == 8 ? io::Dtype::f64 : io::Dtype::f32;
  std::vector<io::TensorToWrite> tensors;
  std::vector<std::int64_t> counts;
  counts.reserve(2 * (Trainer::Student::entries.size() + Trainer::Teacher::entries.size()));
  trainer.for_each_tensor([&](const std::string& name, const Shape& shape, Scalar* data) {
    if (detail::is_batch_count(name)) {
      counts.push_back(static_cast<std::int64_t>(*data));
      tensors.push_back({name, io::Dtype::i64, {}, std::as_bytes(std::span(&counts.back(), 1))});
    } else {
      tensors.push_back({name, dtype, detail::extents(shape),
                         std::as_bytes(std::span(data, static_cast<std::size_t>(shape.size())))});
    }
  });
  metadata["format"] = "tessera-checkpoint-1";
  metadata["method"] = Trainer::Method::name;
  metadata["optimizer"] = Trainer::Optimizer::name;
  metadata["step"] = std::to_string(trainer.steps());
  io::write_safetensors(path, tensors, metadata);
}

// Continues from a checkpoint that was written with the same `expected` metadata. Throws Error, which names the file
// and what is wrong with it, before anything is changed by values of another run.
template <class Trainer>
void load_checkpoint(const std::filesystem::path& path, Trainer& trainer, Metadata expected) {
  using Scalar = typename Trainer::Scalar;
  const io::Safetensors file(path);
  expected["format"] = "tessera-checkpoint-1";
  expected["method"] = Trainer::Method::name;
  expected["optimizer"] = Trainer::Optimizer::name;
  const auto& metadata = file.metadata();
  for (const auto& [key, value] : expected) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) fail("{}: is not a checkpoint of this program: it has no '{}'", path.string(), key);
    if (found->second != value)
      fail("{}: was written with {} = {}, but this run has {}", path.string(), key, found->second, value);
  }
  const auto step = metadata.find("step");
  if (step == metadata.end() || step->second.empty() || step->second.size() > 15 ||
      step->second.find_first_not_of("0123456789") != std::string::npos)
    fail("{}: does not say at which step it was written", path.string());

  std::vector<std::vector<Scalar>> values;
  trainer.for_each_tensor([&](const std::string& name, const Shape& shape, Scalar*) {
    auto& tensor = values.emplace_back(static_cast<std::size_t>(shape.size()));
    file.read_into<Scalar>(name, detail::extents(shape), std::span<Scalar>(tensor));
  });
  std::size_t next = 0;
  trainer.for_each_tensor([&](const std::string&, const Shape&, Scalar* data) {
    std::copy(values[next].begin(), values[next].end(), data);
    ++next;
  });
  trainer.set_steps(std::stol(step->second));
}

}  // namespace tessera::inline TESSERA_ABI
