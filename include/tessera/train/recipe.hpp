// The options of every run, beside its types and the objective's settings; named as the reference's command line.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/optim/schedules.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The entries of a checkpoint's metadata, which identify its run.
using Metadata = std::map<std::string, std::string>;

struct Recipe {
  std::string arch;              // goes into checkpoints
  std::filesystem::path out;     // folder of everything that the run writes
  std::filesystem::path resume;  // checkpoint to continue from; empty: start anew
  bool overwrite = false;        // a run that `out` holds is replaced
  int batch_size = 256;          // images of a step, of all ranks together
  std::string optimizer = "adamw";
  double lr = 1.5e-4;  // base rate: multiplied by batch_size / 256
  double weight_decay = 0.1;
  std::optional<double> beta1, beta2, momentum;  // refused by optimizers that have none
  optim::HyperParameters usual;  // the objective's: used where nothing is given and the optimizer has such a thing
  double clip_grad = 0;          // largest norm of all gradients together; 0: they are not clipped
  double epochs = 300, warmup_epochs = 40;
  double crop_min = 0.08;      // smallest share of the image in a crop
  bool blur = true;            // Gaussian blur in the objective's views; images of 32 pixels are better without
  bool decode_scaled = false;  // JPEG files at 1/2, 1/4 or 1/8 of their size where the crops allow it
  bool colors = true;          // colour jitter and grayscale in the objective's views; for images of 1 and 3 channels
  std::uint64_t seed = 0;
  int threads = 0;          // of the training step; 0: every processor
  int workers = 1;          // threads of the loader
  int metrics_every = 10;   // steps between rows of metrics
  int knn_every = 0;        // steps between k-NN monitors; 0: one every epoch
  int knn_bank = 10000;     // training images in the monitor's bank, evenly spaced; all if there are fewer
  int knn_queries = 10000;  // test images that the monitors look at, evenly spaced; all if there are fewer
  int save_every = 0;       // steps between checkpoints; 0: one every epoch
  double rank_timeout = 0;  // seconds to wait for other ranks; 0: in a step ten steps, and 30 s at least, else 300 s

  [[nodiscard]] std::filesystem::path checkpoint() const { return out / "checkpoint.safetensors"; }
  [[nodiscard]] std::filesystem::path metrics() const { return out / "metrics.jsonl"; }

  // Throws Error that names the value, with `prefix` in front: "--" for a program's flags.
  void check(std::string_view prefix = "") const {
    const auto positive = [&](std::string_view name, double value) {
      if (!(value > 0 && std::isfinite(value))) fail("{}{} must be a positive number, not {}", prefix, name, value);
    };
    const auto not_negative = [&](std::string_view name, double value) {
      if (!(value >= 0 && std::isfinite(value)))
        fail("{}{} must be a number of at least 0, not {}", prefix, name, value);
    };
    const auto at_least = [&](std::string_view name, int least, int value) {
      if (value < least) fail("{}{} must be at least {}, not {}", prefix, name, least, value);
    };
    const auto at_most = [&](std::string_view name, double most, double value) {
      if (value > most) fail("{}{} must be at most {}, not {}", prefix, name, most, value);
    };
    positive("epochs", epochs);
    at_most("epochs", 1000000, epochs);
    not_negative("lr", lr);
    not_negative("weight-decay", weight_decay);
    not_negative("clip-grad", clip_grad);
    for (const auto& [name, value] :
         {std::pair("beta1", beta1), std::pair("beta2", beta2), std::pair("momentum", momentum)})
      if (value && !(*value >= 0 && *value < 1))
        fail("{}{} must be at least 0 and below 1, not {}", prefix, name, *value);
    if (const std::string names = ", " + optim::optimizer_names() + ",";
        optimizer.empty() || names.find(", " + optimizer + ",") == std::string::npos)
      fail("{}optimizer {}: there are {}", prefix, optimizer, optim::optimizer_names());
    if (!(crop_min > 0 && crop_min <= 1))
      fail("{}crop-min must lie above 0 and at most at 1, not {}", prefix, crop_min);
    if (!(warmup_epochs >= 0 && warmup_epochs < epochs))
      fail("{0}warmup-epochs must be at least 0 and below {0}epochs ({1}), not {2}", prefix, epochs, warmup_epochs);
    at_least("batch-size", 1, batch_size);
    at_least("threads", 0, threads);
    at_most("threads", 1024, threads);
    at_least("workers", 1, workers);
    at_most("workers", 1024, workers);
    at_least("metrics-every", 1, metrics_every);
    at_least("knn-every", 0, knn_every);
    at_least("knn-bank", 1, knn_bank);
    at_least("knn-queries", 1, knn_queries);
    at_least("save-every", 0, save_every);
    not_negative("rank-timeout", rank_timeout);
    at_most("rank-timeout", 1000000, rank_timeout);
  }

  // Steps in an epoch over this many images. Throws Error if the epoch or the whole run has none.
  [[nodiscard]] int iterations_per_epoch(int images, std::string_view prefix = "") const {
    if (images < batch_size)
      fail("{}batch-size {} is larger than the data set of {} images", prefix, batch_size, images);
    const int iterations = images / batch_size;
    if (epochs * iterations < 1)
      fail("{}epochs {} ends before the first of {} steps an epoch", prefix, epochs, iterations);
    return iterations;
  }

  // The images of a step on each of `ranks` ranks.
  [[nodiscard]] int batch_of_rank(int ranks, std::string_view prefix = "") const {
    if (batch_size % ranks != 0)
      fail("{}batch-size {} is the batch of all ranks and cannot be dealt out to {} of them in equal shares", prefix,
           batch_size, ranks);
    return batch_size / ranks;
  }

  // At a fractional epoch: linear warm-up, then half a cosine to 0 (docs/method.md, "Schedules").
  [[nodiscard]] double learning_rate(double epoch) const {
    return optim::learning_rate(lr * batch_size / 256, epoch, warmup_epochs, epochs);
  }

  // The optimizer with the recipe's numbers. Throws Error that lists the optimizers.
  [[nodiscard]] optim::Optimizer make_optimizer() const {
    optim::HyperParameters values;
    values.beta1 = beta1;
    values.beta2 = beta2;
    values.momentum = momentum;
    return optim::optimizer_named(optimizer, weight_decay, values, usual);
  }

  // The entries that must be equal for a run to be resumed. An option that is off has an empty value.
  [[nodiscard]] Metadata identity(int images) const {
    Metadata identity{{"arch", arch},
                      {"seed", std::to_string(seed)},
                      {"batch_size", std::to_string(batch_size)},
                      {"epochs", fmt::format("{}", epochs)},
                      {"warmup_epochs", fmt::format("{}", warmup_epochs)},
                      {"lr", fmt::format("{}", lr)},
                      {"weight_decay", fmt::format("{}", weight_decay)},
                      {"clip_grad", clip_grad > 0 ? fmt::format("{}", clip_grad) : ""},
                      {"crop_min", fmt::format("{}", crop_min)},
                      {"blur", blur ? "1" : "0"},
                      {"colors", colors ? "" : "0"},
                      {"decode_scaled", decode_scaled ? "1" : ""},
                      {"images", std::to_string(images)}};
    const optim::HyperParameters changed = optim::changed_hyper_parameters(make_optimizer());
    for (const auto& [name, value] :
         {std::pair("beta1", changed.beta1), std::pair("beta2", changed.beta2), std::pair("epsilon", changed.epsilon),
          std::pair("momentum", changed.momentum), std::pair("trust", changed.trust)})
      identity[name] = value ? fmt::format("{}", *value) : "";
    return identity;
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
