// The rank of this process and the number of ranks, read from the environment variables of launchers.
#pragma once

#include <charconv>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

struct Place {
  int rank = 0, size = 1;
  int local_rank = 0;   // among the ranks of this host; -1: the source does not say
  std::string address;  // of rank 0, a name or a number; empty: the source does not say
  int port = 0;         // of rank 0; 0: the source does not say
  std::string source;   // what says so, as "RANK and WORLD_SIZE"; empty: nothing does, and there is one rank
};

// The value of an environment variable, or nothing if it is not set.
using Lookup = std::function<std::optional<std::string>(const std::string& variable)>;

[[nodiscard]] inline std::optional<std::string> environment(const std::string& variable) {
  const char* const value = std::getenv(variable.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

namespace detail {

// The variables in which a launcher passes rank, size and local rank.
struct Source {
  std::string rank, size, local_rank;

  [[nodiscard]] std::string text() const { return rank + " and " + size; }
};

[[nodiscard]] inline std::optional<int> read_number(const Lookup& lookup, const std::string& variable, int low,
                                                    int high) {
  const std::optional<std::string> text = lookup(variable);
  if (!text) return std::nullopt;
  int value = 0;
  const char* const end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, value);
  if (error != std::errc{} || stop != end || value < low || value > high)
    fail("{} is '{}', not a whole number from {} to {}; set it right or unset it", variable, *text, low, high);
  return value;
}

[[nodiscard]] inline std::optional<Place> read_place(const Lookup& lookup, const Source& source) {
  const std::optional<int> rank = read_number(lookup, source.rank, 0, INT_MAX);
  const std::optional<int> size = read_number(lookup, source.size, 1, INT_MAX);
  if (!rank && !size) return std::nullopt;
  if (!size) fail("{} is {}, but {} is not set; set both or neither", source.rank, *rank, source.size);
  if (!rank) fail("{} is {}, but {} is not set; set both or neither", source.size, *size, source.rank);
  if (*rank >= *size)
    fail("{} is {} and {} is {}, but ranks go from 0 to one less than their number", source.rank, *rank, source.size,
         *size);
  const std::optional<int> local = read_number(lookup, source.local_rank, 0, *size - 1);
  return Place{*rank, *size, local.value_or(*size == 1 ? 0 : -1), {}, 0, source.text()};
}

// The first host of a list as "gpu[03-07,12],login1": "gpu03".
[[nodiscard]] inline std::string first_host(std::string_view list) {
  std::string host;
  for (std::size_t at = 0; at < list.size() && list[at] != ',';) {
    if (list[at] != '[') {
      host += list[at++];
      continue;
    }
    const std::size_t close = list.find(']', at);
    if (close == std::string_view::npos) fail("SLURM_STEP_NODELIST is '{}', where a ']' is missing", list);
    const std::string_view range = list.substr(at + 1, close - at - 1);
    host += range.substr(0, range.find_first_of("-,"));
    at = close + 1;
  }
  if (host.empty()) fail("SLURM_STEP_NODELIST is '{}', which names no host", list);
  return host;
}

// Ports of steps that share a host differ; they lie below the ephemeral ports of the system.
[[nodiscard]] inline int slurm_port(const Lookup& lookup) {
  const std::int64_t job = read_number(lookup, "SLURM_JOB_ID", 0, INT_MAX).value_or(0);
  const std::int64_t step = read_number(lookup, "SLURM_STEP_ID", 0, INT_MAX).value_or(0);
  return static_cast<int>(10000 + (job + step) % 20000);
}

// srun's tasks. A batch script and salloc's shell have SLURM_PROCID = 0 and SLURM_NTASKS of the whole job too; only
// steps have a SLURM_STEP_ID, and SLURM_STEP_NUM_TASKS, which is 1 where salloc's shell is a step itself.
[[nodiscard]] inline std::optional<Place> read_slurm(const Lookup& lookup) {
  if (!lookup("SLURM_STEP_ID")) return std::nullopt;
  const char* const tasks = lookup("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  std::optional<Place> place = read_place(lookup, {"SLURM_PROCID", tasks, "SLURM_LOCALID"});
  if (place && place->size > 1)
    if (const auto hosts = lookup("SLURM_STEP_NODELIST")) {
      place->address = first_host(*hosts);
      place->port = slurm_port(lookup);
    }
  return place;
}

inline void read_address(const Lookup& lookup, Place& place) {
  const std::optional<std::string> address = lookup("MASTER_ADDR");
  const std::optional<int> port = read_number(lookup, "MASTER_PORT", 1, 65535);
  if (address && address->empty()) fail("MASTER_ADDR is set, but empty; set it to the host of rank 0 or unset it");
  if (address && !port) fail("MASTER_ADDR is '{}', but MASTER_PORT is not set; set both or neither", *address);
  if (port && !address) fail("MASTER_PORT is {}, but MASTER_ADDR is not set; set both or neither", *port);
  if (address) {
    place.address = *address;
    place.port = *port + (lookup("TORCHELASTIC_USE_AGENT_STORE") == "True" ? 1 : 0);
  }
}

inline void check_given(const Place& given) {
  if (given.size < 1 || given.rank < 0 || given.rank >= given.size)
    fail("{}: rank {} of {}, but ranks go from 0 to one less than their number", given.source, given.rank, given.size);
  if (given.port < 0 || given.port > 65535) fail("{}: port {} is not from 1 to 65535", given.source, given.port);
}

}  // namespace detail

// The place of this process. Sources, in this order: `given` by the program, whose source names the options; RANK and
// WORLD_SIZE (torchrun and relatives); Open MPI's mpirun; the mpiexec of MPICH and relatives; srun; else rank 0 of 1.
// MASTER_ADDR and MASTER_PORT give the address of rank 0, whatever the source. If torchrun listens at that port itself
// (TORCHELASTIC_USE_AGENT_STORE is True), the next port is taken. Without them, tasks of srun take the first host of
// SLURM_STEP_NODELIST, which has rank 0 unless tasks are distributed arbitrarily, and a port made of the numbers of job
// and step.
//
// Throws Error that names variables and values if one is no valid number, if one of a pair is missing, or if two
// sources differ in rank or size. Local ranks may differ: the first source's counts, since a program may see one device
// of several.
//
// Uses SLURM_* only if no other launcher's variables are set: mpirun and torchrun may themselves run as tasks of srun
// and pass SLURM_* on. RANK and WORLD_SIZE that describe fewer ranks than srun's tasks are stale, which is an Error.
[[nodiscard]] inline Place find_place(const Lookup& lookup = environment, const std::optional<Place>& given = {}) {
  std::vector<Place> places;
  if (given) {
    detail::check_given(*given);
    places.push_back(*given);
  }
  const detail::Source by_variables{"RANK", "WORLD_SIZE", "LOCAL_RANK"};
  for (const detail::Source& source : {by_variables,
                                       {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
                                       {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"}})
    if (auto place = detail::read_place(lookup, source)) places.push_back(std::move(*place));
  for (const Place& other : places) {
    Place& first = places.front();
    if (other.rank != first.rank || other.size != first.size)
      fail("{} say rank {} of {}, but {} say rank {} of {}; unset or leave out those that did not start this process",
           first.source, first.rank, first.size, other.source, other.rank, other.size);
    if (first.local_rank < 0) first.local_rank = other.local_rank;
  }

  const std::optional<Place> slurm = detail::read_slurm(lookup);
  if (places.empty())
    places.push_back(slurm.value_or(Place{}));
  else if (slurm && places.front().source == by_variables.text() && places.front().size < slurm->size)
    fail(
        "RANK and WORLD_SIZE say rank {} of {}, but srun started {} tasks ({}); unset RANK and WORLD_SIZE if srun "
        "started this process, or start it with one task for each host",
        places.front().rank, places.front().size, slurm->size, slurm->source);
  if (!given || given->address.empty()) detail::read_address(lookup, places.front());
  return places.front();
}

// Throws Error if `source`, which has started ("MPI_Init"), has another rank or size than `place`. A place without a
// source is not compared.
inline void expect(const Place& place, int rank, int size, std::string_view source) {
  if (place.source.empty() || (place.rank == rank && place.size == size)) return;
  fail("{} say rank {} of {}, but {} says rank {} of {}; {}", place.source, place.rank, place.size, source, rank, size,
       size == 1 ? "most likely the program was built with another MPI than the launcher's, or not started by one"
                 : "most likely the variables were left over from another launcher: unset them");
}

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
