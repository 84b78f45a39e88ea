// Checkpoints: the whole state of a trainer in one safetensors file. Needs nlohmann-json (tessera::io).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

namespace detail {

inline std::vector<std::int64_t> extents(const Shape& shape) {
  return {shape.extents.begin(), shape.extents.begin() + shape.rank};
}

inline bool is_batch_count(const std::string& name) {
  return name.ends_with("num_batches_tracked");
}

// The type of a tensor in the file, by its name.
template <class Scalar>
[[nodiscard]] io::Dtype stored_dtype(const std::string& name) {
  if (is_batch_count(name)) return io::Dtype::i64;
  return sizeof(Scalar) == 8 ? io::Dtype::f64 : io::Dtype::f32;
}

template <class Backend, class Scalar>
void write_tensors(const std::filesystem::path& path, [[maybe_unused]] const Backend& backend,
                   const std::vector<NamedTensor<Scalar>>& tensors, const Metadata& metadata) {
  std::vector<io::TensorToWrite> to_write;
  std::vector<std::int64_t> counts;
  counts.reserve(tensors.size());
  std::vector<std::vector<Scalar>> downloaded;
  for (const auto& [name, shape, data] : tensors) {
    std::span<const Scalar> values(data, static_cast<std::size_t>(shape.size()));
    if constexpr (!Backend::on_host) {
      auto& copy = downloaded.emplace_back(values.size());
      backend.download(shape.size(), data, copy.data());
      values = copy;
    }
    if (is_batch_count(name)) {
      counts.push_back(static_cast<std::int64_t>(values[0]));
      to_write.push_back({name, stored_dtype<Scalar>(name), {}, std::as_bytes(std::span(&counts.back(), 1))});
    } else {
      to_write.push_back({name, stored_dtype<Scalar>(name), extents(shape), std::as_bytes(values)});
    }
  }
  io::write_safetensors(path, to_write, metadata);
}

// Reads all tensors. Throws Error, and changes none, if one is missing or has another shape, or if the file has others.
template <class Backend, class Scalar>
void read_tensors(const std::string& path, const Backend& backend, const io::Safetensors& file,
                  const std::vector<NamedTensor<Scalar>>& tensors) {
  std::set<std::string> known;
  for (const auto& tensor : tensors) known.insert(tensor.name);
  for (const std::string& name : file.names())
    if (!known.contains(name)) fail("{}: holds the tensor '{}', which this run does not have", path, name);
  for (const auto& [name, shape, data] : tensors) {
    file.expect_dtype(name, stored_dtype<Scalar>(name));
    file.expect_shape(name, extents(shape));
  }
  std::vector<std::vector<Scalar>> values;
  for (const auto& [name, shape, data] : tensors) {
    auto& tensor = values.emplace_back(static_cast<std::size_t>(shape.size()));
    file.read_into<Scalar>(name, extents(shape), std::span<Scalar>(tensor));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i)
    backend.upload(tensors[i].shape.size(), values[i].data(), tensors[i].data);
}

[[nodiscard]] inline std::string value_of(const Metadata& metadata, const std::string& key) {
  const auto one = metadata.find(key);
  return one == metadata.end() ? std::string() : one->second;
}

// The keys of fingerprints, which checkpoints of version 0.1 do not have.
[[nodiscard]] inline bool is_fingerprint(std::string_view key) {
  return key == "train_data" || key == "test_data";
}

// The reason why values of a key differ; empty where they say it themselves.
[[nodiscard]] inline std::string_view reason_of(std::string_view key) {
  if (is_fingerprint(key)) return ": number, order, names, sizes or labels of the images are not those of then";
  if (key == "verify_data") return ": pixels of the images are not those of then";
  return "";
}

// Throws Error that names the first key of `expected` that has another value. A key without a value, such as that of a
// feature that is off, is equal to one that is not there. A fingerprint that is missing is not compared.
inline void check_metadata(const std::string& path, const Metadata& found, const Metadata& expected) {
  if (!found.contains("format")) fail("{}: is not a checkpoint of this program: it has no 'format'", path);
  const std::string_view writer = found.contains("encoder") ? "was written" : "was written by version 0.1";
  for (const auto& [key, value] : expected) {
    const std::string written = value_of(found, key);
    if (written == value || (written.empty() && is_fingerprint(key))) continue;
    if (written.empty())
      fail("{}: {} without {}, but this run has {} = {}; leave it out to continue", path, writer, key, key, value);
    if (value.empty()) fail("{}: {} with {} = {}, but this run has none", path, writer, key, written);
    fail("{}: {} with {} = {}, but this run has {}{}", path, writer, key, written, value, reason_of(key));
  }
}

[[nodiscard]] inline long step_of(const std::string& path, const Metadata& metadata) {
  const auto step = metadata.find("step");
  if (step == metadata.end() || step->second.empty() || step->second.size() > 15 ||
      step->second.find_first_not_of("0123456789") != std::string::npos)
    fail("{}: does not say at which step it was written", path);
  return std::stol(step->second);
}

// Adds the entries of the trainer to the metadata. "method" is the objective's name.
template <class Trainer>
void describe(const Trainer& trainer, Metadata& metadata) {
  metadata["format"] = "tessera-checkpoint-1";
  metadata["method"] = Trainer::Objective::name;
  metadata["optimizer"] = trainer.optimizer();
}

// Rank 0 calls body(), on behalf of all ranks. If it throws there, it throws on all.
template <class Trainer, class Body>
void on_first_rank(Trainer& trainer, const std::filesystem::path& path, Body&& body) {
  std::exception_ptr problem;
  if (trainer.communicator().rank() == 0) {
    try {
      body();
    } catch (...) {
      problem = std::current_exception();
    }
  }
  const bool good = trainer.all_agree(problem == nullptr);
  if (problem) std::rethrow_exception(problem);
  if (good) return;
  std::this_thread::sleep_for(std::chrono::seconds(1));  // for rank 0 to say why before a launcher ends all of them
  fail("{}: rank 0 could not read or write it, and says why", path.string());
}

}  // namespace detail

// Writes networks, BatchNorm statistics, optimizer state and the step, atomically; rank 0 writes, on behalf of all
// ranks, which must all call. Random numbers are counted, not stepped, so that the seed and the step, which are in the
// metadata, are their whole state. What is written does not depend on the number of ranks.
template <class Trainer>
void save_checkpoint(const std::filesystem::path& path, Trainer& trainer, Metadata metadata) {
  std::erase_if(metadata, [](const auto& one) { return one.second.empty(); });
  detail::describe(trainer, metadata);
  metadata["encoder"] = Trainer::Objective::encoder_name;
  metadata["images_at_once"] = std::to_string(trainer.images_at_once() * trainer.communicator().size());
  metadata["step"] = std::to_string(trainer.steps());
  trainer.with_tensors([&](const auto& tensors) {
    detail::on_first_rank(trainer, path, [&] { detail::write_tensors(path, trainer.backend(), tensors, metadata); });
  });
}

// Continues, on all ranks, from a checkpoint that was written with the same `expected` metadata, by this version or
// 0.1; rank 0 reads it. Throws Error, which names the file and what is wrong with it, before anything is changed by
// values of another run.
template <class Trainer>
void load_checkpoint(const std::filesystem::path& path, Trainer& trainer, Metadata expected) {
  detail::describe(trainer, expected);
  trainer.resume([&](const auto& tensors) {
    long step = 0;
    detail::on_first_rank(trainer, path, [&] {
      const io::Safetensors file(path);
      detail::check_metadata(path.string(), file.metadata(), expected);
      step = detail::step_of(path.string(), file.metadata());
      detail::read_tensors(path.string(), trainer.backend(), file, tensors);
    });
    return step;
  });
}

}  // namespace TESSERA_ABI
}  // namespace tessera
