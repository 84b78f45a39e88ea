// Trains a Vision Transformer: pretrain --help. Every machine of the registry makes a program of it: pretrain,
// pretrain_mpi (mpirun -np 4 pretrain_mpi ...), pretrain_cuda and pretrain_nccl.
#include "tessera/programs/pretrain.hpp"

#include "entries.hpp"

int main(int argc, char** argv) {
  return tessera::programs::pretrain(argc, argv, entries::all());
}
