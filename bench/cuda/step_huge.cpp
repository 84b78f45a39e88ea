#include "step_bench.hpp"

void bench::add_huge() {
  using Image = ts::image<224>;
  using Patch = ts::patch<14>;
  add_steps<MoCo<ts::vit::Huge<Image, Patch, FrozenPatches<>>>>("vit_huge_14");
  add_steps<MoCo<ts::vit::Huge<Image, Patch, FrozenPatches<ts::recompute::Blocks>>>>("vit_huge_14_recomputed");
}
