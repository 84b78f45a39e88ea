// The program that writes features of images by the encoder of a checkpoint. Needs CLI11, zlib, nlohmann-json and
// xtensor (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tessera/data/any_dataset.hpp"
#include "tessera/io/npy.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/programs/command.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/programs/pictures.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// The entry whose encoder a checkpoint holds. Throws Error that lists the encoders there are.
[[nodiscard]] inline const Entry& entry_of(const std::string& checkpoint, const std::vector<Entry>& entries) {
  const io::Safetensors file(checkpoint);
  for (const char* key : {"arch", "normalization"})
    if (!file.metadata().contains(key)) fail("{}: is not a checkpoint of pretrain: it has no '{}'", checkpoint, key);
  const std::string& arch = file.metadata().at("arch");
  std::string archs;
  for (const Entry& entry : entries) {
    if (entry.arch == arch) return entry;
    if (archs.find(entry.arch) == std::string::npos) archs += (archs.empty() ? "" : ", ") + entry.arch;
  }
  fail("{}: has the arch '{}'; there are {}", checkpoint, arch, archs);
}

namespace detail {

// Throws Error if features cannot be saved to the file, or if it holds something else, such as the checkpoint.
inline void check_features_file(const std::filesystem::path& path) {
  io::check_replaceable(path);
  if (std::filesystem::exists(path) && std::filesystem::file_size(path) > 0 && !io::is_npy(path))
    fail("--out {}: is a file that is not an .npy file, and is not replaced; choose another name", path.string());
}

}  // namespace detail

// Writes features.npy for the images of a folder.
inline int extract(int argc, char** argv, const std::vector<Entry>& entries) {
  DataOptions data;
  std::string split, checkpoint, out = "features.npy";
  int threads = 0;
  CLI::App app("Features of pictures by a checkpoint of pretrain, as .npy.");
  set_up(app);
  add_data_flags(app, data);
  app.add_option("--split", split,
                 "train or test, as pretrain takes them; none: all pictures, or the test images of IDX files");
  app.add_option("--checkpoint", checkpoint, "checkpoint.safetensors of a run")->required();
  app.add_option("--out", out, "file to write");
  app.add_option("--threads", threads, "threads that compute; 0: every processor");
  if (!parse(app, argc, argv)) return 0;
  const Entry& entry = entry_of(checkpoint, entries);
  detail::check_features_file(out);
  const FeatureSet features = entry.encode(
      checkpoint, open_part(data, split, std::make_shared<data::DamagedPictures>(data.max_damaged, "--")), threads);
  io::write_npy(out, features.values.data(), static_cast<std::size_t>(features.rows),
                static_cast<std::size_t>(features.width));
  print(fmt::format("{}: {} x {} features\n", out, features.rows, features.width));
  return 0;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
