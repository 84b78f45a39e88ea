// An encoder that was trained before as the start of another training: probes, fine-tuning. Needs nlohmann-json
// (tessera::io).
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/train/checkpoint.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

namespace detail {

// The text in front of the names of an encoder's tensors: the file's metadata says it, or it is a usual one. first: the
// name of the encoder's first tensor.
[[nodiscard]] inline std::string pretrained_prefix(const io::Safetensors& file, std::string_view first,
                                                   const std::string& path) {
  if (const auto said = file.metadata().find("encoder"); said != file.metadata().end())
    return said->second.empty() ? "" : said->second + ".";
  for (const char* prefix : {"base_encoder.", "", "module.base_encoder.", "module.", "backbone."})
    if (file.contains(prefix + std::string(first))) return prefix;
  fail("{}: holds no encoder of this kind: there is no tensor '{}', with or without 'base_encoder.'", path, first);
}

}  // namespace detail

// Assigns the encoder of a trainer from a safetensors file, by name; all else keeps its values, moving averages too,
// and steps are counted from 0. prefix: in front of the names in the file; none: found. Rank 0 reads. Throws Error that
// names the file and the tensor that is missing or has another shape. On all ranks.
template <class Trainer>
void load_encoder(const std::filesystem::path& path, Trainer& trainer, std::optional<std::string> prefix = {}) {
  using Objective = typename Trainer::Objective;
  using Master = typename Trainer::Master;
  constexpr auto& entries = Layout<typename Objective::Encoder>::entries;
  const std::string own = Objective::encoder_name.empty() ? "" : std::string(Objective::encoder_name) + ".";
  trainer.resume([&](const auto& tensors) {
    detail::on_first_rank(trainer, path, [&] {
      const io::Safetensors file(path);
      const std::string in_file =
          prefix ? *prefix : detail::pretrained_prefix(file, entries[0].name.view(), path.string());
      std::map<std::string, std::vector<Master>> values;
      for (const Entry& entry : entries) {
        const std::string name(entry.name.view());
        auto& read = values[own + name];
        read.resize(static_cast<std::size_t>(entry.size()));
        file.template read_into<Master>(in_file + name, detail::extents(entry.shape), std::span<Master>(read));
      }
      for (const auto& tensor : tensors)
        if (const auto found = values.find(tensor.name); found != values.end())
          trainer.backend().upload(tensor.shape.size(), found->second.data(), tensor.data);
      trainer.backend().wait();
    });
    return 0L;
  });
}

}  // namespace TESSERA_ABI
}  // namespace tessera
