// One rank of a job under mpirun whose ranks share one device: trains as ranks that are threads do, to the bit. Says
// what differs and returns 1 if anything does.
#include <cstdio>

#include "cuda/ranks.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/staged.hpp"

namespace tessera::test {
namespace {

bool same_as_threads(comm::Mpi& mpi) {
  RankBackend backend;
  comm::Staged<comm::Mpi> communicator(mpi.duplicate());
  const auto outcome = train<optim::AdamW, comm::ZeroStage1>(backend, communicator, short_plan);
  const auto threads = on_device<comm::ZeroStage1, optim::AdamW>(
      mpi.size(), [](comm::Threads& place) { return comm::Staged<comm::Threads>(place); });
  const bool same = outcome == threads[static_cast<std::size_t>(mpi.rank())];
  if (!same) fmt::print(stderr, "rank {} of {} differs from what threads do\n", mpi.rank(), mpi.size());
  return same;
}

}  // namespace
}  // namespace tessera::test

int main() {
  using namespace tessera;
  try {
    comm::Mpi mpi = comm::Mpi::world();
    mpi.set_deadline(std::chrono::seconds(60));
    return test::same_as_threads(mpi) ? 0 : 1;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "{}\n", problem.what());
    comm::Mpi::end_job(1);
  }
}
