// A step's collectives as SMPI replays them (SimGrid): the calls of all ranks, and a cluster with one link for each.
#pragma once

#include <fmt/format.h>
#include <fmt/os.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "../scale_model.hpp"

namespace bench {

namespace detail {

// One line for each rank and call. Bytes are rounded up to a multiple of the ranks: SMPI's ring sends a remainder by a
// call of its own.
inline void write_calls(const std::filesystem::path& path, const std::vector<Collective>& calls, int ranks) {
  auto file = fmt::output_file(path.string());
  const auto all = [&](std::string_view action) {
    for (int rank = 0; rank < ranks; ++rank) file.print("{} {}\n", rank, action);
  };
  all("init");
  for (const Collective& call : calls) {
    const index part = ts::divide_up(call.bytes(), ranks);
    switch (call.operation) {
      case comm::Operation::all_reduce:
        all(fmt::format("allreduce {} 0", part * ranks));
        break;
      case comm::Operation::all_gather:
        all(fmt::format("allgather {} {}", part, part));
        break;
      case comm::Operation::reduce_scatter:
      case comm::Operation::broadcast:
        ts::fail("{} is not replayed: SMPI has no ring for it; leave --zero out", comm::name(call.operation));
    }
  }
  all("finalize");
}

}  // namespace detail

// Writes into `folder`, which is made: platform.xml and hosts, and for each trace NAME.calls with the calls and
// NAME.txt that names it. Throws Error for a call that cannot be replayed, std::system_error if a file cannot be
// written.
inline void write_platform(const std::filesystem::path& folder, const RingNetwork& network) {
  std::filesystem::create_directories(folder);
  auto platform = fmt::output_file((folder / "platform.xml").string());
  platform.print(
      "<?xml version='1.0'?>\n<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
      "<platform version=\"4.1\">\n"
      "  <cluster id=\"cluster\" prefix=\"gpu\" suffix=\"\" radical=\"0-{}\" speed=\"1Gf\" bw=\"{:.6e}Bps\"\n"
      "           lat=\"{:.6e}s\" sharing_policy=\"SPLITDUPLEX\"/>\n</platform>\n",
      network.ranks - 1, network.bandwidth, network.hop / 2);  // a hop passes two links
  auto hosts = fmt::output_file((folder / "hosts").string());
  for (int rank = 0; rank < network.ranks; ++rank) hosts.print("gpu{}\n", rank);
}
inline void write_trace(const std::filesystem::path& folder, const std::string& name,
                        const std::vector<Collective>& calls, int ranks) {
  const auto trace = folder / (name + ".calls");
  detail::write_calls(trace, calls, ranks);
  fmt::output_file((folder / (name + ".txt")).string()).print("{}\n", std::filesystem::absolute(trace).string());
}

}  // namespace bench
