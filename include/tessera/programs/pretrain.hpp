// The training program as a template: flags, data, progress, k-NN, checkpoints, report. Flags as in the reference's
// main_moco.py. Needs tessera::programs.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/launch.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/programs/command.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/programs/pictures.hpp"
#include "tessera/programs/results.hpp"
#include "tessera/programs/train.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

namespace detail {

// The entries that the flags --objective, -a, --stop-grad-conv1 and --precision choose among.
class Choice {
 public:
  explicit Choice(std::vector<Entry> entries) : entries_(std::move(entries)) {}

  [[nodiscard]] const std::string& default_objective() const { return entries_.front().objective; }
  [[nodiscard]] const std::string& default_precision() const { return entries_.front().precision; }

  // The arch for images of these sizes if none is asked for: the first of the largest whose images are not larger.
  [[nodiscard]] std::string arch_for(const std::string& objective, const ImageSizes& images) const {
    check_objective(objective);
    const Entry* best = nullptr;
    for (const Entry& entry : entries_)
      if (entry.objective == objective && entry.size <= images.shorter_side && entry.channels >= images.channels)
        if (best == nullptr || entry.size > best->size) best = &entry;
    if (best == nullptr)
      fail(
          "no encoder of this program is made for images of {} pixels, {}: choose one by --arch ({}), or compile "
          "another (TESSERA_ARCHS in CMake)",
          images.shorter_side, kind_of(images.channels), archs(objective));
    return best->arch;
  }

  [[nodiscard]] const Entry& find_default(const std::string& objective) const {
    check_objective(objective);
    return *std::find_if(entries_.begin(), entries_.end(),
                         [&](const Entry& entry) { return entry.objective == objective; });
  }

  // precision auto: the fastest that there is, which is bf16 where the processor has instructions for it
  // (docs/performance.md). Throws Error that lists what there is.
  [[nodiscard]] const Entry& find(const std::string& objective, const std::string& arch, bool frozen,
                                  const std::string& precision) const {
    check_objective(objective);
    const auto has_it = [&](const Entry& entry) { return entry.precision == precision; };
    if (precision != "auto" && std::none_of(entries_.begin(), entries_.end(), has_it))
      fail("--precision {}: this program has {} (TESSERA_OBJECTIVES_CpuBf16 in CMake picks what is compiled in bf16)",
           precision, precisions());
    const Entry* same_arch = nullptr;
    const Entry* alike = nullptr;
    const Entry* best = nullptr;
    for (const Entry& entry : entries_) {
      if (entry.objective != objective || entry.arch != arch) continue;
      same_arch = &entry;
      if (entry.frozen_patches != frozen) continue;
      alike = &entry;
      if (precision == "auto" ? best == nullptr || best->emulated || !entry.emulated : has_it(entry)) best = &entry;
    }
    if (best != nullptr) return *best;
    if (same_arch == nullptr)
      fail("--arch {}: this program has {} (TESSERA_ARCHS in CMake picks what is compiled)", arch, archs(objective));
    if (alike == nullptr)
      fail("--stop-grad-conv1: {} with {} is not compiled {} it (TESSERA_STOP_GRAD_CONV1 in CMake)", objective, arch,
           frozen ? "with" : "without");
    fail("--precision {}: {} with {} is compiled in {} alone (TESSERA_OBJECTIVES_CpuBf16 in CMake)", precision,
         objective, arch, alike->precision);
  }

  [[nodiscard]] std::string objectives() const {
    std::string list;
    for (const Entry& entry : entries_) append(list, entry.objective);
    return list;
  }
  [[nodiscard]] std::string precisions() const {
    std::string list;
    for (const Entry& entry : entries_) append(list, entry.precision);
    return list;
  }
  [[nodiscard]] std::string archs(const std::string& objective) const {
    std::string list;
    for (const Entry& entry : entries_)
      if (entry.objective == objective)
        append(list, fmt::format("{} ({} x {} {})", entry.arch, entry.size, entry.size, kind_of(entry.channels)));
    return list;
  }

 private:
  [[nodiscard]] static std::string kind_of(int channels) {
    return channels == 1 ? "grey" : channels == 3 ? "RGB" : fmt::format("of {} channels", channels);
  }
  void check_objective(const std::string& objective) const {
    if (archs(objective).empty()) fail("--objective {}: there are {}", objective, objectives());
  }
  static void append(std::string& list, const std::string& item) {
    if (list.find(item) == std::string::npos) list += (list.empty() ? "" : ", ") + item;
  }
  std::vector<Entry> entries_;
};

inline void add_recipe_flags(CLI::App& app, Options& options) {
  Recipe& recipe = options.recipe;
  add_data_flags(app, options.data);
  app.add_flag("--verify-data", options.verify_data, "a run that continues must find every pixel as it was");
  app.add_option("-b,--batch-size", recipe.batch_size, "images per step, of all ranks together");
  app.add_option("--lr", recipe.lr, "base learning rate, multiplied by batch size / 256");
  app.add_option("--wd,--weight-decay", recipe.weight_decay, "weight decay");
  app.add_option("--clip-grad", recipe.clip_grad, "largest norm of all gradients together; 0: they are not clipped");
  app.add_option("--epochs", recipe.epochs, "epochs");
  app.add_option("--warmup-epochs", recipe.warmup_epochs, "epochs of linear warm-up");
  app.add_option("--optimizer", recipe.optimizer, "adamw, lars, lamb or sgd");
  app.add_option("--beta1", recipe.beta1, "AdamW's and LAMB's decay of the first moment");
  CLI::Option* const beta2 = app.add_option("--beta2", recipe.beta2, "AdamW's and LAMB's decay of the second moment");
  if (recipe.usual.beta2) beta2->default_str(fmt::format("{}", *recipe.usual.beta2));
  app.add_option("--momentum", recipe.momentum, "LARS's and SGD's momentum");
  app.add_option("--crop-min", recipe.crop_min, "smallest share of the image in a crop");
  app.add_flag("--no-blur{false}", recipe.blur, "views without Gaussian blur, for images of 32 pixels and less");
  app.add_flag("--decode-scaled", recipe.decode_scaled,
               "JPEG files at 1/2, 1/4 or 1/8 of their size where the crops allow it: faster, other pixels");
  app.add_flag("--no-colors{false}", recipe.colors, "views without colour jitter and grayscale");
  app.add_option("--seed", recipe.seed, "seed of initial values, order and views")->check(CLI::Range(0.0, 1e18));
  app.add_option("-j,--workers", recipe.workers, "threads that load images");
  app.add_option("--threads", recipe.threads, "threads that compute on the host; 0: every processor");
  app.add_option("--metrics-every", recipe.metrics_every, "steps between rows of metrics");
  app.add_option("--knn-every", recipe.knn_every, "steps between k-NN monitors; 0: once an epoch");
  app.add_option("--knn-bank", recipe.knn_bank, "training images that the monitor knows, evenly spaced");
  app.add_option("--knn-queries", recipe.knn_queries, "test images that the monitors look at, evenly spaced");
  app.add_option("--save-every", recipe.save_every, "steps between checkpoints; 0: once an epoch");
  app.add_option("--rank-timeout", recipe.rank_timeout,
                 "seconds that ranks wait for each other, for rank 0's monitor and checkpoint too; 0: in a step ten "
                 "steps, and 30 s at least, else 300 s");
  app.add_option("--class-names", options.class_names,
                 "names of the labels 0, 1, ... in the report, with commas between")
      ->delimiter(',');
}

inline void add_setting_flags(CLI::App& app, std::vector<SettingFlag>& settings) {
  for (SettingFlag& setting : settings) {
    const bool moves = setting.value.cosine || setting.value.end != setting.value.start;
    app.add_option_function<double>(
           "--" + setting.name,
           [&setting, moves](double value) {
             setting.value.start = value;
             if (!moves) setting.value.end = value;
           },
           setting.help)
        ->default_str(fmt::format("{}", setting.value.start));
    if (moves)
      app.add_flag("--" + setting.name + "-cos", setting.value.cosine,
                   fmt::format("move --{} to {} along half a cosine", setting.name, setting.value.end));
  }
}

// The flags that choose the entry. They are read before the others, because each objective has its own flags and
// defaults.
struct ChosenFlags {
  std::string objective, arch, precision;
  DataOptions data;
  bool frozen = false;

  void add(CLI::App& app, const Choice& choice) {
    app.add_option("--objective", objective, "objective: " + choice.objectives());
    app.add_option("-a,--arch", arch, "encoder: " + choice.archs(objective));
    app.add_flag("--stop-grad-conv1", frozen, "keep the patch projection as it was initialised");
    app.add_option("--precision", precision,
                   "of activations and products: " + choice.precisions() + "; auto: the fastest of these");
  }
  void read(int argc, char** argv, const Choice& choice) {
    CLI::App first;
    first.set_help_flag();
    first.allow_extras();
    set_up(first);
    add(first, choice);
    add_data_flags(first, data);
    first.get_option("--data")->required(false);
    parse(first, argc, argv);
  }
};

// The normalization of the checkpoint which the run continues from; otherwise it is measured.
[[nodiscard]] inline data::Normalization normalization_of(const Pictures& pictures, const Recipe& recipe) {
  if (!pictures.train.in_memory() && !recipe.resume.empty()) {
    const io::Safetensors checkpoint(recipe.resume);
    if (const auto said = checkpoint.metadata().find("normalization"); said != checkpoint.metadata().end())
      return data::normalization_from(said->second, recipe.resume.string());
  }
  return measure(pictures.train, recipe.threads);
}

inline int pretrain(int argc, char** argv, const Choice& choice) {
  ChosenFlags chosen;
  chosen.objective = choice.default_objective();
  chosen.precision = choice.default_precision();
  chosen.read(argc, argv, choice);
  std::optional<Pictures> pictures;
  if (chosen.arch.empty() && !chosen.data.path.empty()) {
    pictures.emplace(open_pictures(chosen.data));
    chosen.arch = choice.arch_for(chosen.objective, sizes_of(pictures->train));
  }
  if (chosen.arch.empty()) chosen.arch = choice.find_default(chosen.objective).arch;
  const Entry& entry = choice.find(chosen.objective, chosen.arch, chosen.frozen, chosen.precision);

  Options options;
  options.recipe = entry.defaults;
  std::vector<SettingFlag> settings = entry.settings;
  std::string resume, out = options.recipe.out.string();
  CLI::App app(fmt::format("Trains a Vision Transformer ({}) on pictures.", chosen.objective));
  set_up(app);
  chosen.add(app, choice);
  add_recipe_flags(app, options);
  add_setting_flags(app, settings);
  app.add_option("--resume", resume, "checkpoint to continue from; auto: that of --out, if there is one");
  app.add_option("--out", out, "folder for everything that is written");
  app.add_flag("--overwrite", options.recipe.overwrite, "replace the run that --out holds");
  if (!entry.device_help.empty()) app.add_option("--device", options.device, entry.device_help);
  if (!parse(app, argc, argv)) return 0;
  options.recipe.out = out;
  if (resume != "auto")
    options.recipe.resume = resume;
  else if (std::filesystem::exists(options.recipe.checkpoint()))
    options.recipe.resume = options.recipe.checkpoint();
  options.recipe.check("--");
  if (options.recipe.decode_scaled && options.data.cache > 0)
    fail("--cache keeps pictures at their full size, and --decode-scaled does not make it; leave one of them out");
  if (!pictures) pictures.emplace(open_pictures(options.data));
  if (options.class_names.empty()) options.class_names = pictures->class_names;
  pictures->normalization = normalization_of(*pictures, options.recipe);
  if (entry.emulated)
    pictures->remarks.push_back(
        "this program was compiled for a processor without an instruction for bf16, which takes about as long as "
        "float");

  // Never destroyed: a signal does not change the exit code of a program that is about to end.
  static const StopSignals& signals = *new StopSignals;
  std::optional<Results> results;
  const int status = entry.train(options, settings, *pictures, signals, results);
  return results ? write_results(options, entry, settings, *pictures, *results) : status;
}

}  // namespace detail

// A training program with a choice of entries of one machine; the first one's objective is the default.
inline int pretrain(int argc, char** argv, const std::vector<Entry>& entries) {
  std::string name = std::filesystem::path(argv[0]).filename().string();
  return guarded(name, [&] {
    if (entries.empty()) fail("this program has no entry: TESSERA_ARCHS and TESSERA_OBJECTIVES in CMake pick them");
    if (entries.front().many_ranks)
      if (const comm::Place place = comm::find_place(); place.size > 1) name += fmt::format(": rank {}", place.rank);
    return detail::pretrain(argc, argv, detail::Choice(entries));
  });
}

// A whole training program for one objective: int main(int argc, char** argv) { return programs::pretrain<Mine>(argc,
// argv); } Machines: Cpu if none is named; --precision chooses between Cpu and CpuBf16.
template <class Objective, class... Machines>
int pretrain(int argc, char** argv) {
  if constexpr (sizeof...(Machines) == 0)
    return pretrain(argc, argv, {entry<Objective, Cpu>("custom")});
  else
    return pretrain(argc, argv, {entry<Objective, Machines>("custom")...});
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
