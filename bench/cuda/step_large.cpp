#include "step_bench.hpp"

void bench::add_large() {
  using Image = ts::image<224>;
  using Patch = ts::patch<16>;
  add_steps<MoCo<ts::vit::Large<Image, Patch, FrozenPatches<>>>>("vit_large_16");
  add_steps<MoCo<ts::vit::Large<Image, Patch, FrozenPatches<ts::recompute::Blocks>>>>("vit_large_16_recomputed");
}
