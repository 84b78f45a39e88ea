// Linear probe and k-NN on the features of a checkpoint: probe --help.
#include "tessera/programs/probe.hpp"

#include "entries.hpp"

int main(int argc, char** argv) {
  namespace programs = tessera::programs;
  return programs::guarded("probe", [&] { return programs::probe(argc, argv, entries::all()); });
}
