// What a pre-training run is made of, apart from types; names as the reference's command line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera::inline TESSERA_ABI {

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
  int threads = 0;       // of the training step; 0: every processor
  int workers = 1;       // threads of the loader
  int knn_every = 0;     // steps between k-NN monitors; 0: one every epoch
  int knn_bank = 10000;  // training images in the monitor's bank
  int save_every = 0;    // steps between checkpoints; 0: one every epoch

  // Throws Error that names the flag.
  void check() const {
    const auto positive = [](const char* flag, double value) {
      if (!(value > 0)) fail("{} must be positive, not {}", flag, value);
    };
    const auto share = [](const char* flag, double value) {
      if (!(value >= 0 && value <= 1)) fail("{} must lie between 0 and 1, not {}", flag, value);
    };
    positive("--epochs", epochs);
    positive("--moco-t", moco_t);
    positive("--crop-min", crop_min);
    share("--crop-min", crop_min);
    share("--moco-m", moco_m);
    if (batch_size < 2) fail("--batch-size must be at least 2, since BatchNorm needs 2 images, not {}", batch_size);
    if (!(lr >= 0)) fail("--lr must not be negative, but is {}", lr);
    if (!(weight_decay >= 0)) fail("--weight-decay must not be negative, but is {}", weight_decay);
    if (!(warmup_epochs >= 0 && warmup_epochs < epochs))
      fail("--warmup-epochs must lie between 0 and --epochs ({}), not {}", epochs, warmup_epochs);
    if (workers < 1) fail("--workers must be at least 1, not {}", workers);
    if (knn_bank < 1) fail("--knn-bank must be at least 1, not {}", knn_bank);
  }
};

}  // namespace tessera::inline TESSERA_ABI
