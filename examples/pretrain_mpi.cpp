// Pre-trains a Vision Transformer with MoCo v3 on the processors of many processes: mpirun -np 4 pretrain_mpi ...
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <thread>

#include "pretrain.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/recorded.hpp"

namespace {

namespace ts = tessera;

struct MpiCpu {
  using Backend = ts::cpu::Backend<float>;
  using Communicator = ts::comm::Recorded<ts::comm::Mpi>;
  template <class B, class Method, class Dataset>
  using Feed = ts::HostFeed<B, Method, Dataset>;
  template <class B, class C>
  using Sharing = ts::comm::Replicated<B, C>;

  Communicator communicator{ts::comm::Mpi::world()};
  Backend backend;

  explicit MpiCpu(const examples::Options& options) : backend(threads(options.recipe.threads)) {
    ts::comm::expect(ts::comm::find_place(), communicator.rank(), communicator.size(), "MPI");
  }
  void expect_alike(const std::vector<ts::comm::Fact>& facts) { ts::comm::expect_alike(communicator, facts); }
  static void add_options(CLI::App&, examples::Options&) {}

 private:
  // Without a wish, the ranks of a host share its processors.
  [[nodiscard]] static int threads(int wanted) {
    if (wanted > 0) return wanted;
    MPI_Comm host = MPI_COMM_NULL;
    int ranks = 1;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_size(host, &ranks);
    MPI_Comm_free(&host);
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks);
  }
};

}  // namespace

int main(int argc, char** argv) {
  std::string speaker = "pretrain_mpi";
  return examples::guarded(speaker, [&] {
    if (const ts::comm::Place place = ts::comm::find_place(); place.size > 1)
      speaker += fmt::format(": rank {}", place.rank);
    return examples::pretrain<MpiCpu>(argc, argv);
  });
}
