// The pre-training program but for its main: MoCo v3 on images in IDX files. Flags as in the reference's main_moco.py.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "report.hpp"
#include "tessera/comm/fingerprint.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/train/pretrain.hpp"

namespace examples {

struct Options {
  ts::Recipe recipe;
  std::string data, optimizer = "adamw";
  bool stop_grad_conv1 = false;
  int device = 0;
  int moco_dim = 256, moco_mlp_dim = 4096;
  std::vector<std::string> class_names;
};

// Of a finished run; all ranks call it. Attention maps are there on the rank that leads.
template <class Run>
[[nodiscard]] Results gather_results(Run& run, const Options& options, const ts::data::IdxDataset& train_set,
                                     const ts::data::IdxDataset& test_set) {
  Results results{options.recipe,
                  train_set,
                  test_set,
                  options.class_names,
                  run.metrics_path(),
                  static_cast<double>(ts::Layout<typename Run::Method>::trained_count),
                  run.log().seconds(),
                  run.log().images_per_second(),
                  run.features(train_set, options.recipe.knn_bank),
                  run.features(test_set),
                  {}};
  if constexpr (Run::Encoder::Pooling::class_token)
    if (run.leads())
      results.attention = run.attention(test_set, std::min({8, test_set.size(), 2 * options.recipe.batch_size}));
  return results;
}

// What must be the same on all ranks.
template <class Method, class Optimizer>
[[nodiscard]] std::vector<ts::comm::Fact> facts(const Options& options, int images) {
  std::vector<ts::comm::Fact> facts{{"build", ts::abi_name},
                                    {"method", Method::name},
                                    {"parameters", std::to_string(ts::Layout<Method>::parameters)},
                                    {"optimizer", Optimizer::name}};
  for (const auto& [name, value] : options.recipe.identity(images)) facts.push_back({name, value});
  return facts;
}

// What this rank called last, for whoever asks which rank was lost, and in what. Never throws: there is worse to tell.
template <class Communicator>
void write_last_calls(const Communicator& communicator, const std::filesystem::path& out) {
  if constexpr (requires { communicator.record(); })
    std::ofstream(out / fmt::format("lost_rank_{}.txt", communicator.rank())) << communicator.record().last_calls();
}

// What all ranks do together; they have parted when it returns. The one that led has results of a finished run.
template <class Method, class Optimizer, class Device>
int train_together(const Options& options, const ts::data::IdxDataset& train_set, const ts::data::IdxDataset& test_set,
                   std::optional<Results>& results) {
  Device device(options);
  device.expect_alike(facts<Method, Optimizer>(options, train_set.size()));
  ts::Pretraining<Method, Optimizer, ts::data::IdxDataset, typename Device::Backend, Device::template Feed,
                  typename Device::Communicator, Device::template Sharing>
      run(device.backend, device.communicator, options.recipe, train_set, test_set,
          ts::data::measure_normalization(train_set));
  try {
    if (!run.run()) return ts::exit_code::stopped;
    Results gathered = gather_results(run, options, train_set, test_set);
    if (run.leads()) results.emplace(std::move(gathered));
    return 0;
  } catch (const ts::comm::RankLost&) {
    write_last_calls(device.communicator, options.recipe.out);
    throw;
  }
}

template <class Method, class Optimizer, class Device>
int train(const Options& options) {
  const ts::data::IdxDataset train_set(options.data, "train"), test_set(options.data, "t10k");
  if (train_set.height() != test_set.height() || train_set.width() != test_set.width())
    ts::fail("--data {}: training images have {} x {} pixels, but test images {} x {}", options.data,
             train_set.height(), train_set.width(), test_set.height(), test_set.width());
  options.recipe.check();
  std::optional<Results> results;
  const int status = train_together<Method, Optimizer, Device>(options, train_set, test_set, results);
  if (results) write_results(*results);
  return status;
}

template <class Method, class Device>
int with_optimizer(const Options& options) {
  if (options.optimizer == "adamw") return train<Method, ts::optim::AdamW, Device>(options);
  if (options.optimizer == "lars") return train<Method, ts::optim::Lars, Device>(options);
  if (options.optimizer == "lamb") return train<Method, ts::optim::Lamb, Device>(options);
  if (options.optimizer == "sgd") return train<Method, ts::optim::Sgd, Device>(options);
  ts::fail("--optimizer {}: there are adamw, lars, lamb and sgd", options.optimizer);
}

// Device: what trains, and with whom.
// struct Device {
//   Backend backend; Feed<...>; Communicator communicator; Sharing<...>;
//   Device(const Options&); void expect_alike(facts); static void add_options(CLI::App&, Options&);
// };
template <class Device>
int pretrain(int argc, char** argv) {
  Options options;
  ts::Recipe& recipe = options.recipe;
  recipe.arch = "vit_tiny";
  recipe.out = "runs/pretrain";
  std::string resume, out = recipe.out.string();
  CLI::App app("Pre-trains a Vision Transformer with MoCo v3 on images in IDX files.");
  set_up(app);
  app.add_option("--data", options.data, "folder with {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]")->required();
  app.add_option("-a,--arch", recipe.arch, "vit_tiny, vit_small or vit_base");
  app.add_option("-b,--batch-size", recipe.batch_size, "images per step, of all ranks together");
  app.add_option("--lr", recipe.lr, "base learning rate, multiplied by batch size / 256");
  app.add_option("--wd,--weight-decay", recipe.weight_decay, "weight decay");
  app.add_option("--epochs", recipe.epochs, "epochs");
  app.add_option("--warmup-epochs", recipe.warmup_epochs, "epochs of linear warm-up");
  app.add_option("--optimizer", options.optimizer, "adamw, lars, lamb or sgd");
  app.add_option("--moco-dim", options.moco_dim, "features of the heads");
  app.add_option("--moco-mlp-dim", options.moco_mlp_dim, "hidden features of the heads");
  app.add_option("--moco-m", recipe.moco_m, "momentum of the momentum encoder");
  app.add_flag("--moco-m-cos", recipe.moco_m_cos, "raise the momentum to 1 along half a cosine");
  app.add_option("--moco-t", recipe.moco_t, "softmax temperature");
  app.add_flag("--stop-grad-conv1", options.stop_grad_conv1, "keep the patch projection as it was initialised");
  app.add_option("--crop-min", recipe.crop_min, "smallest share of the image in a crop");
  app.add_flag("--no-blur{false}", recipe.blur, "views without Gaussian blur, for images of 32 pixels and less");
  app.add_option("--seed", recipe.seed, "seed of initial values, order and views")->check(CLI::Range(0.0, 1e18));
  app.add_option("--resume", resume, "checkpoint to continue from");
  app.add_option("-j,--workers", recipe.workers, "threads that load images");
  app.add_option("--threads", recipe.threads, "threads that compute on the host; 0: every processor");
  app.add_option("--knn-every", recipe.knn_every, "steps between k-NN monitors; 0: once an epoch");
  app.add_option("--knn-bank", recipe.knn_bank, "training images that the monitor knows");
  app.add_option("--save-every", recipe.save_every, "steps between checkpoints; 0: once an epoch");
  app.add_option("--rank-timeout", recipe.rank_timeout,
                 "seconds that ranks wait for each other, for rank 0's monitor and checkpoint too; 0: in a step ten "
                 "steps, and 30 s at least, else 300 s");
  app.add_option("--class-names", options.class_names,
                 "names of the labels 0, 1, ... in the report, with commas between")
      ->delimiter(',');
  app.add_option("--out", out, "folder for everything that is written");
  Device::add_options(app, options);
  if (!parse(app, argc, argv)) return 0;
  recipe.resume = resume;
  recipe.out = out;
  int status = 0;
  if (!for_arch(recipe.arch, options.stop_grad_conv1, options.moco_dim, options.moco_mlp_dim,
                [&]<class One>(One) { status = with_optimizer<typename One::Method, Device>(options); }))
    ts::fail("--arch {}: there are {}", recipe.arch, archs);
  return status;
}

}  // namespace examples
