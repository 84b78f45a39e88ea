// The options and the results of a training program.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/data/any_dataset.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/data/tolerant.hpp"
#include "tessera/objectives/settings.hpp"
#include "tessera/train/features.hpp"
#include "tessera/train/recipe.hpp"
#include "tessera/train/run_folder.hpp"
#include "tessera/train/signals.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// The pictures of a program, as its flags name them (programs/pictures.hpp).
struct DataOptions {
  std::string path, test;     // folders or files; an empty `test`: a part of `path`
  bool labels = true;         // false: labels are not read
  bool upright = true;        // false: Exif's orientation is ignored
  double max_damaged = 0.01;  // largest share of pictures that cannot be decoded
  double cache = 0;           // GiB for decoded pictures
};

// The command line of a training program.
struct Options {
  Recipe recipe;
  DataOptions data;
  bool verify_data = false;              // pixels of all images belong to what a resumed run must find again
  std::vector<std::string> class_names;  // of the labels 0, 1, ...; none: those of the data
  int device = 0;                        // number of the CUDA device
};

// The images of a run: those that it trains on, and those that its monitors classify.
struct Pictures {
  data::AnyDataset train, test;
  data::Normalization normalization = data::imagenet_normalization;
  std::vector<std::string> class_names = {};                 // of the labels 0, 1, ...; none if they have no names
  std::shared_ptr<data::DamagedPictures> damaged = nullptr;  // none if no picture is decoded during the run
  std::vector<std::string> remarks = {};                     // sentences that the user must read
};

inline constexpr int attention_rows = 8;  // test images in the report with their attention maps, at most

// A finished run, as its results are written. All is on the rank that leads.
struct Results {
  std::unique_ptr<RunFolder> folder;  // where they are written
  double trained_parameters = 0, seconds = 0, images_per_second = 0;
  FeatureSet bank, queries;                // features of training images, evenly spaced, and of all test images
  std::optional<AttentionMaps> attention;  // of some test images, evenly spaced, where the encoder has maps
};

// A run that a signal has stopped behind its last step.
[[nodiscard]] inline std::string stopped_at_results(const Recipe& recipe) {
  return fmt::format("stopped by a signal before all results were written; the same command with --resume {} continues",
                     recipe.checkpoint().string());
}

// A setting of an objective as a flag.
struct SettingFlag {
  std::string name, help;
  Range range;
  Schedule value;
};

// An entry of a program: an objective with an encoder on a machine, its flags and its functions.
struct Entry {
  std::string objective, arch;
  bool frozen_patches = false;  // chosen by --stop-grad-conv1
  std::string precision;        // of activations and products: float or bf16
  bool emulated = false;        // the processor has no instruction for products in this precision
  int size = 0, channels = 0;   // of the images that the encoder sees
  bool many_ranks = false;      // of the machine: each process is one of many
  std::string device_help;      // of --device; empty: the machine has no such flag
  std::vector<SettingFlag> settings;
  Recipe defaults;
  // Trains until the end or a signal; all ranks call it. Returns an exit code, and results of a finished run on the
  // rank that leads.
  int (*train)(const Options&, const std::vector<SettingFlag>&, const Pictures&, const StopSignals&,
               std::optional<Results>&) = nullptr;
  // Features of a data set by the encoder of a checkpoint.
  FeatureSet (*encode)(const std::filesystem::path& checkpoint, const data::AnyDataset&, int threads) = nullptr;
};

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
