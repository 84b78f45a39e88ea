// Trains a Vision Transformer on a CUDA device, in bf16. Compiled by nvcc.
#include "entries.hpp"
#include "tessera/programs/cuda.hpp"
#include "tessera/programs/pretrain.hpp"

int main(int argc, char** argv) {
  namespace programs = tessera::programs;
  return programs::guarded("pretrain_cuda",
                           [&] { return programs::pretrain<programs::Cuda>(argc, argv, entries::all()); });
}
