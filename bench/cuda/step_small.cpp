#include "step_bench.hpp"

void bench::add_small() {
  using Image = ts::image<224>;
  using Patch = ts::patch<16>;
  add_steps<MoCo<ts::vit::Small<Image, Patch, FrozenPatches<>>>>("vit_small_16");
}
