// Trains a Vision Transformer on the processors of many processes: mpirun -np 4 pretrain_mpi ...
#include <string>

#include "entries.hpp"
#include "tessera/programs/mpi.hpp"
#include "tessera/programs/pretrain.hpp"

int main(int argc, char** argv) {
  namespace ts = tessera;
  std::string speaker = "pretrain_mpi";
  return ts::programs::guarded(speaker, [&] {
    if (const ts::comm::Place place = ts::comm::find_place(); place.size > 1)
      speaker += fmt::format(": rank {}", place.rank);
    return ts::programs::pretrain<ts::programs::MpiCpu>(argc, argv, entries::all());
  });
}
