#include "step_bench.hpp"

void bench::add_base() {
  using Image = ts::image<224>;
  using Patch = ts::patch<16>;
  add_steps<MoCo<ts::vit::Base<Image, Patch, FrozenPatches<>>>>("vit_base_16");
}
