// Training of one objective on one kind of machine. Each entry of a program compiles it.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/comm/fingerprint.hpp"
#include "tessera/data/fingerprint.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/eval/encoder.hpp"
#include "tessera/programs/machines.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/callbacks/damage.hpp"
#include "tessera/train/callbacks/monitors.hpp"
#include "tessera/train/callbacks/rank_deadline.hpp"
#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/callbacks/save.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/features.hpp"
#include "tessera/train/product_choices.hpp"
#include "tessera/train/run.hpp"
#include "tessera/train/run_folder.hpp"
#include "tessera/train/signals.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

namespace detail {

template <class Machine>
[[nodiscard]] constexpr const char* precision_name() {
  return std::is_same_v<typename Machine::Device::Scalar, bf16> ? "bf16" : "float";
}

template <class Objective>
[[nodiscard]] std::vector<SettingFlag> setting_flags() {
  std::vector<SettingFlag> flags;
  typename Objective::Settings settings{};
  settings.visit([&](std::string_view name, const Schedule& value, Range range, std::string_view help) {
    flags.push_back({std::string(name), std::string(help), range, value});
  });
  return flags;
}

template <class Objective>
[[nodiscard]] typename Objective::Settings settings_from(const std::vector<SettingFlag>& flags) {
  typename Objective::Settings settings{};
  std::size_t next = 0;
  settings.visit([&](std::string_view, Schedule& value, Range, std::string_view) { value = flags[next++].value; });
  return settings;
}

// The crops' augmentation: the objective's, with the recipe's smallest crop for the first group of crops.
template <class Objective>
[[nodiscard]] std::vector<data::ViewAugmentation> views(const Recipe& recipe) {
  std::vector<data::ViewAugmentation> views;
  if constexpr (requires { Objective::augmentation(); }) {
    const auto all = Objective::augmentation();
    views.assign(all.begin(), all.end());
  } else {
    views.assign(static_cast<std::size_t>(Objective::Reads::crops), data::ViewAugmentation::crop_and_flip());
  }
  for (int crop = 0; crop < Objective::Reads::template Group<0>::count; ++crop)
    views[static_cast<std::size_t>(crop)].crop_min = recipe.crop_min;
  if (!recipe.blur)
    for (data::ViewAugmentation& view : views) view.blur = 0;
  if (!recipe.colors)
    for (data::ViewAugmentation& view : views) view = view.without_colors();
  return views;
}

// The batches of this rank from the trainer's next step on.
template <class Objective, class Trainer>
[[nodiscard]] data::LoaderOptions loader_options(const Recipe& recipe, const Pictures& pictures, Trainer& trainer,
                                                 int per_epoch) {
  data::LoaderOptions options;
  options.batch = static_cast<int>(trainer.batch());
  options.views = views<Objective>(recipe);
  options.normalization = pictures.normalization;
  options.seed = recipe.seed;
  options.threads = recipe.workers;
  options.decode_scaled = recipe.decode_scaled;
  options.epoch = static_cast<int>(trainer.steps() / per_epoch);
  options.iteration = static_cast<int>(trainer.steps() % per_epoch);
  options.rank = trainer.communicator().rank();
  options.ranks = trainer.communicator().size();
  return options;
}

template <class Objective>
[[nodiscard]] Recipe default_recipe(const std::string& arch) {
  Recipe recipe;
  if constexpr (requires { Objective::defaults(recipe); }) Objective::defaults(recipe);
  recipe.arch = arch;
  recipe.out = "runs/pretrain";
  if constexpr (requires { Objective::augmentation(); }) recipe.crop_min = Objective::augmentation()[0].crop_min;
  return recipe;
}

// The entries of a checkpoint's metadata that tell data sets from each other.
inline void identify_data(const Options& options, const Pictures& pictures, Metadata& identity) {
  identity["train_data"] = data::fingerprint(pictures.train);
  identity["test_data"] = data::fingerprint(pictures.test);
  identity["ignore_exif"] = options.data.upright ? "" : "1";
  identity["verify_data"] = "";
  if (options.verify_data)
    identity["verify_data"] =
        data::fingerprint_of_contents(pictures.train) + data::fingerprint_of_contents(pictures.test);
}

// Writes what this rank called last, for whoever asks which rank was lost, and in which call. Never throws.
template <class Communicator>
void write_last_calls(const Communicator& communicator, const std::filesystem::path& out) {
  if constexpr (requires { communicator.record(); })
    std::ofstream(out / fmt::format("lost_rank_{}.txt", communicator.rank())) << communicator.record().last_calls();
}

// The columns of gradient norms: the patch embedding and the last block, where the study sees instability first.
template <class Objective>
[[nodiscard]] Report::GradientNorms gradient_norms() {
  const std::string encoder =
      Objective::encoder_name.empty() ? std::string() : std::string(Objective::encoder_name) + ".";
  Report::GradientNorms norms{{"patch_embed", encoder + "patch_embed"}};
  if constexpr (requires { Objective::Encoder::depth; })
    norms.push_back({"last_block", fmt::format("{}blocks.{}.", encoder, Objective::Encoder::depth - 1)});
  return norms;
}

// Sentences about the choices that a run continues with.
template <class Backend>
[[nodiscard]] std::vector<std::string> of_choices(const Backend& backend, const std::string& of_file) {
  std::vector<std::string> remarks;
  if (!of_file.empty()) remarks.push_back(of_file);
  if constexpr (chooses_products<Backend>)
    if (const int count = backend.products().forgotten_choices(); count > 0)
      remarks.push_back(fmt::format(
          "cuBLASLt does not offer {} of the algorithms that the run started with; they are chosen anew, so that this "
          "run's bits differ from those of the first",
          count));
  return remarks;
}

template <class Objective, class Trainer>
[[nodiscard]] Results gather_results(Trainer& trainer, const Report& report, const Recipe& recipe,
                                     const Pictures& pictures) {
  Results results{nullptr,
                  static_cast<double>(Trainer::Online::trained_count),
                  report.seconds(),
                  report.images_per_second(),
                  features_of(trainer, data::Spread(pictures.train, recipe.knn_bank), pictures.normalization),
                  features_of(trainer, pictures.test, pictures.normalization),
                  {}};
  if constexpr (requires {
                  requires Objective::Encoder::has_attention_maps && Objective::Encoder::Pooling::class_token;
                })
    if (trainer.communicator().rank() == 0) {
      const data::Spread shown(pictures.test, smaller(attention_rows, static_cast<int>(trainer.images_at_once())));
      results.attention = attention_of(trainer, shown, pictures.normalization);
    }
  return results;
}

}  // namespace detail

// Trains Objective on Machine until the end or a signal; returns an exit code, and results of a finished run on the
// rank that leads.
template <class Objective, class Machine>
int train(const Options& options, const std::vector<SettingFlag>& flags, const Pictures& pictures,
          const StopSignals& signals, std::optional<Results>& results) {
  using Device = typename Machine::Device;
  using Reads = typename Objective::Reads;
  const Recipe& recipe = options.recipe;
  const auto settings = detail::settings_from<Objective>(flags);
  objectives::check_settings(settings, "--");
  const int per_epoch = recipe.iterations_per_epoch(pictures.train.size(), "--");
  if constexpr (requires { Objective::smallest_batch; })
    if (recipe.batch_size < Objective::smallest_batch)
      fail("--batch-size {} is too small: {} needs at least {} images", recipe.batch_size, Objective::name,
           Objective::smallest_batch);
  Metadata identity = recipe.identity(pictures.train.size());
  for (const auto& [key, value] : objectives::identity_of(settings)) identity[key] = value;
  detail::identify_data(options, pictures, identity);
  // Processors in float and devices, which compute in bf16 only, continue runs of each other.
  const bool is_own_precision = Device::Backend::on_host && std::is_same_v<typename Device::Scalar, bf16>;
  identity["precision"] = is_own_precision ? detail::precision_name<Machine>() : "";

  Machine machine(options);
  auto& communicator = machine.device.communicator;
  std::unique_ptr<RunFolder> folder;
  if (communicator.rank() == 0) folder = std::make_unique<RunFolder>(recipe, "--");
  const int batch = recipe.batch_of_rank(communicator.size(), "--");
  std::vector<comm::Fact> facts{
      {"build", abi_name},
      {"method", std::string(Objective::name)},
      {"parameters", std::to_string(Layout<typename Objective::Networks::Online>::parameters)},
      {"optimizer", recipe.optimizer}};
  for (const auto& [name, value] : identity) facts.push_back({name, value});
  machine.expect_alike(facts);
  identity["normalization"] = data::to_text(pictures.normalization);

  TrainerSettings trainer_settings{.batch = batch, .seed = recipe.seed, .clip_grad = recipe.clip_grad};
  if constexpr (requires { Objective::groups(settings); }) trainer_settings.groups = Objective::groups(settings);
  std::string choices_remark;
  if (communicator.rank() == 0 && !recipe.resume.empty())
    choices_remark = load_choices(choices_beside(recipe.resume), machine.device.backend);
  Trainer<Objective, Device> trainer(machine.device, recipe.make_optimizer(), trainer_settings);
  if (!trainer.all_agree(recipe.resume.empty())) load_checkpoint(recipe.resume, trainer, identity);
  Run run(trainer, recipe, settings, per_epoch);
  typename Machine::template Source<Reads, data::AnyDataset> source(
      machine.device.backend, pictures.train, detail::loader_options<Objective>(recipe, pictures, trainer, per_epoch));
  if (run.leads()) folder->begin();

  Report report(recipe.metrics(), trainer.steps(), run.leads(), detail::gradient_norms<Objective>());
  if (run.leads())
    for (const auto& remarks :
         {folder->remarks(), pictures.remarks, detail::of_choices(machine.device.backend, choices_remark)})
      for (const std::string& remark : remarks) report.say(remark);
  try {
    RankDeadline deadline(report);
    SaveCheckpoints save(report, identity);
    DamageMonitor damage(report, pictures.damaged);
    report.say(fmt::format(
        "{}: {:.2f} M parameters trained, {:.0f} MB of weights and state, {:.0f} MB of activations, {}, {}{}",
        recipe.arch, static_cast<double>(Trainer<Objective, Device>::Online::trained_count) / 1e6,
        static_cast<double>(trainer.parameter_bytes()) / 1e6, static_cast<double>(trainer.activation_bytes()) / 1e6,
        detail::precision_name<Machine>(), machine.device.backend.name(),
        communicator.size() > 1 ? fmt::format(", each of {} ranks", communicator.size()) : ""));
    const data::Spread known(pictures.train, recipe.knn_bank), asked(pictures.test, recipe.knn_queries);
    Monitors monitors(report, known, asked, pictures.train.labelled() && pictures.test.labelled(),
                      pictures.normalization, detail::views<Objective>(recipe).front(), recipe.threads);
    if (!run(source, signals, deadline, report, damage, monitors, save)) return exit_code::stopped;
    if (!run.all_agree(StopSignals::caught() == 0)) {
      report.say(stopped_at_results(recipe));
      return exit_code::stopped;
    }
    Results gathered = detail::gather_results<Objective>(trainer, report, recipe, pictures);
    gathered.folder = std::move(folder);
    if (run.leads()) results.emplace(std::move(gathered));
    return 0;
  } catch (const comm::RankLost&) {
    detail::write_last_calls(communicator, recipe.out);
    throw;
  }
}

// Features of a data set by the encoder of a checkpoint.
template <class Encoder>
[[nodiscard]] FeatureSet encode(const std::filesystem::path& checkpoint, const data::AnyDataset& images, int threads) {
  eval::EncoderOptions options;
  options.threads = threads;
  const eval::Encoder<Encoder> encoder(checkpoint, options);
  const xt::xtensor<float, 2> features = encoder(images);
  FeatureSet set{{features.begin(), features.end()}, {}, Encoder::out, images.size()};
  if (images.labelled())
    for (int i = 0; i < images.size(); ++i) set.labels.push_back(images.label(i));
  return set;
}

// The entry of a program for Objective on Machine.
template <class Objective, class Machine>
[[nodiscard]] Entry entry(std::string arch, bool frozen_patches = false) {
  using Image = typename Objective::Encoder::Image;
  Entry entry;
  entry.objective = Objective::name;
  entry.arch = arch;
  entry.frozen_patches = frozen_patches;
  entry.precision = detail::precision_name<Machine>();
  entry.emulated = Machine::Device::Backend::on_host && entry.precision == "bf16" && !simd::has_bf16_products;
  entry.size = Image::size;
  entry.channels = Image::channels;
  entry.many_ranks = Machine::many_ranks;
  entry.device_help = Machine::device_help;
  entry.settings = detail::setting_flags<Objective>();
  entry.defaults = detail::default_recipe<Objective>(arch);
  entry.train = &train<Objective, Machine>;
  // Features are computed on processors, in float; nvcc 13 cannot compile xtensor's part in that.
  if constexpr (std::is_same_v<Machine, Cpu>) entry.encode = &encode<typename Objective::Encoder>;
  return entry;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
