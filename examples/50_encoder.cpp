// Features for a program that wants only those: 50_encoder CHECKPOINT, with a checkpoint of `pretrain -a vit_tiny`.
#include "tessera/eval/encoder.hpp"

#include <fmt/format.h>

#include <xtensor/xrandom.hpp>
#include <xtensor/xtensor.hpp>

#include "tessera/models/vit/vit.hpp"

namespace ts = tessera;

int main(int argc, char** argv) try {
  if (argc < 2) ts::fail("usage: 50_encoder CHECKPOINT");
  // Any number of threads may call an encoder. Files of timm, MoCo v3 and DeiT in safetensors work as well.
  const ts::Encoder<ts::vit::Tiny<>> encoder(argv[1]);
  const xt::xtensor<std::uint8_t, 4> images = xt::random::randint<int>({5, 28, 28, 1}, 0, 256);
  const xt::xtensor<float, 2> features = encoder(images);
  fmt::print("{} images, {} features of each; the first: {:.3f} {:.3f} {:.3f} ...\n", features.shape(0),
             features.shape(1), features(0, 0), features(0, 1), features(0, 2));
} catch (const std::exception& problem) {
  fmt::print(stderr, "50_encoder: {}\n", problem.what());
  return 2;
}
