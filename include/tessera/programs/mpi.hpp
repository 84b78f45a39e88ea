// Programs on the processors of many processes: mpirun -np 4 PROGRAM. Needs MPI (tessera::mpi).
#pragma once

#include <thread>
#include <vector>

#include "tessera/comm/fingerprint.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/data/source.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// A Machine (programs/machines.hpp). Scalar: float or bf16.
template <class Scalar>
struct MpiProcessors {
  using Device = cpu::Device<Scalar, comm::Recorded<comm::Mpi>>;
  template <class Reads, class Images>
  using Source = data::HostSource<Scalar, Reads, Images>;
  static constexpr bool many_ranks = true;
  static constexpr const char* device_help = "";
  Device device;

  explicit MpiProcessors(const Options& options) : MpiProcessors(options, comm::Mpi::world()) {}
  void expect_alike(const std::vector<comm::Fact>& facts) { comm::expect_alike(device.communicator, facts); }

 private:
  MpiProcessors(const Options& options, comm::Mpi world)
      : device(threads(options.recipe.threads), comm::Recorded<comm::Mpi>(std::move(world))) {
    comm::expect(comm::find_place(), device.communicator.rank(), device.communicator.size(), "MPI");
  }

  // Unless a number is asked for, the ranks of a host share its processors.
  [[nodiscard]] static int threads(int wanted) {
    if (wanted > 0) return wanted;
    MPI_Comm host = MPI_COMM_NULL;
    int ranks = 1;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_size(host, &ranks);
    MPI_Comm_free(&host);
    return larger(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks);
  }
};
using MpiCpu = MpiProcessors<float>;
using MpiCpuBf16 = MpiProcessors<bf16>;

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
