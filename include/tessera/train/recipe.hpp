// What a pre-training run is made of, apart from types; names as the reference's command line.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/optim/schedules.hpp"

namespace tessera::inline TESSERA_ABI {

// What a checkpoint says of its run.
using Metadata = std::map<std::string, std::string>;

struct Recipe {
  std::string arch;              // goes into checkpoints
  std::filesystem::path out;     // folder of everything that the run writes
  std::filesystem::path resume;  // checkpoint to continue from; empty: start anew
  int batch_size = 256;
  double lr = 1.5e-4;  // base rate: multiplied by batch_size / 256
  double weight_decay = 0.1;
  double epochs = 300, warmup_epochs = 40;
  double moco_m = 0.99;
  bool moco_m_cos = false;
  double moco_t = 0.2;
  double crop_min = 0.08;
  bool blur = true;  // the views' Gaussian blur; images of 32 pixels are better without
  std::uint64_t seed = 0;
  int threads = 0;          // of the training step; 0: every processor
  int workers = 1;          // threads of the loader
  int knn_every = 0;        // steps between k-NN monitors; 0: one every epoch
  int knn_bank = 10000;     // training images in the monitor's bank
  int save_every = 0;       // steps between checkpoints; 0: one every epoch
  double rank_timeout = 0;  // seconds to wait for other ranks; 0: in a step ten steps, and 30 s at least, else 300 s

  // Throws Error that names the flag.
  void check() const {
    const auto positive = [](const char* flag, double value) {
      if (!(value > 0 && std::isfinite(value))) fail("{} must be a positive number, not {}", flag, value);
    };
    const auto not_negative = [](const char* flag, double value) {
      if (!(value >= 0 && std::isfinite(value))) fail("{} must be a number of at least 0, not {}", flag, value);
    };
    const auto at_least = [](const char* flag, int least, int value) {
      if (value < least) fail("{} must be at least {}, not {}", flag, least, value);
    };
    positive("--epochs", epochs);
    if (epochs > 1e6) fail("--epochs must be at most 1000000, not {}", epochs);
    if (!(moco_t >= 1e-3 && moco_t <= 1e3)) fail("--moco-t must lie between 0.001 and 1000, not {}", moco_t);
    not_negative("--lr", lr);
    not_negative("--weight-decay", weight_decay);
    if (!(crop_min > 0 && crop_min <= 1)) fail("--crop-min must lie above 0 and at most at 1, not {}", crop_min);
    if (!(moco_m >= 0 && moco_m <= 1)) fail("--moco-m must lie between 0 and 1, not {}", moco_m);
    if (!(warmup_epochs >= 0 && warmup_epochs < epochs))
      fail("--warmup-epochs must be at least 0 and below --epochs ({}), not {}", epochs, warmup_epochs);
    if (batch_size < 2) fail("--batch-size must be at least 2, since BatchNorm needs 2 images, not {}", batch_size);
    at_least("--threads", 0, threads);
    at_least("--workers", 1, workers);
    at_least("--knn-every", 0, knn_every);
    at_least("--knn-bank", 1, knn_bank);
    at_least("--save-every", 0, save_every);
    not_negative("--rank-timeout", rank_timeout);
    if (rank_timeout > 1e6) fail("--rank-timeout must be at most 1000000 s, not {}", rank_timeout);
    for (const auto& [flag, count] : {std::pair("--threads", threads), std::pair("--workers", workers)})
      if (count > 1024) fail("{} must be at most 1024, not {}", flag, count);
  }

  // Steps in an epoch over this many images. Throws Error if the epoch or the whole run has none.
  [[nodiscard]] int iterations_per_epoch(int images) const {
    if (images < batch_size) fail("--batch-size {} is larger than the data set of {} images", batch_size, images);
    const int iterations = images / batch_size;
    if (epochs * iterations < 1) fail("--epochs {} ends before the first of {} steps an epoch", epochs, iterations);
    return iterations;
  }

  // At a fractional epoch (docs/method.md, 4.6).
  [[nodiscard]] double learning_rate(double epoch) const {
    return optim::learning_rate(lr * batch_size / 256, epoch, warmup_epochs, epochs);
  }
  [[nodiscard]] double momentum(double epoch) const {
    return moco_m_cos ? optim::momentum_coefficient(moco_m, epoch, epochs) : moco_m;
  }

  // What must be the same for a resumed run to be the same run.
  [[nodiscard]] Metadata identity(int images) const {
    return {{"arch", arch},
            {"seed", std::to_string(seed)},
            {"batch_size", std::to_string(batch_size)},
            {"epochs", fmt::format("{}", epochs)},
            {"warmup_epochs", fmt::format("{}", warmup_epochs)},
            {"lr", fmt::format("{}", lr)},
            {"weight_decay", fmt::format("{}", weight_decay)},
            {"moco_m", fmt::format("{}", moco_m)},
            {"moco_m_cos", moco_m_cos ? "1" : "0"},
            {"moco_t", fmt::format("{}", moco_t)},
            {"crop_min", fmt::format("{}", crop_min)},
            {"blur", blur ? "1" : "0"},
            {"images", std::to_string(images)}};
  }
};

}  // namespace tessera::inline TESSERA_ABI
