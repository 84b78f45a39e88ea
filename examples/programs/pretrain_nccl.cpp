// Trains a Vision Transformer on many CUDA devices, in bf16, a process for each. Compiled by nvcc.
#include "entries.hpp"
#include "tessera/programs/nccl.hpp"
#include "tessera/programs/pretrain.hpp"

int main(int argc, char** argv) {
  namespace programs = tessera::programs;
  return programs::guarded("pretrain_nccl",
                           [&] { return programs::pretrain<programs::NcclCuda>(argc, argv, entries::all()); });
}
