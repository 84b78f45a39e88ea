// Trains a Vision Transformer on this machine's processors: pretrain --help.
#include "tessera/programs/pretrain.hpp"

#include "entries.hpp"

int main(int argc, char** argv) {
  namespace programs = tessera::programs;
  return programs::guarded("pretrain", [&] { return programs::pretrain<programs::Cpu>(argc, argv, entries::all()); });
}
