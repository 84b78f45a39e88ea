// Training steps of ViT-S/16, B/16, L/16 and H/14.
#include "step_bench.hpp"

int main(int argc, char** argv) {
  bench::add_small();
  bench::add_base();
  bench::add_large();
  bench::add_huge();
  return bench::run(argc, argv);
}
