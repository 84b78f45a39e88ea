// Features of images by the encoder of a checkpoint: extract_features --help.
#include "tessera/programs/extract.hpp"

#include "entries.hpp"

int main(int argc, char** argv) {
  namespace programs = tessera::programs;
  return programs::guarded("extract_features", [&] { return programs::extract(argc, argv, entries::all()); });
}
