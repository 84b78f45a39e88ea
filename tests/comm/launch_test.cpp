#include "tessera/comm/launch.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace tessera {
namespace {

using comm::Place;
using testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

comm::Lookup fake(const Variables& variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

std::string text(const Place& place) {
  return fmt::format("{} of {}, local {}, at {}:{}, by {}", place.rank, place.size, place.local_rank, place.address,
                     place.port, place.source);
}

std::string message(const Variables& variables, const std::optional<Place>& given = {}) {
  try {
    return "found " + text(comm::find_place(fake(variables), given));
  } catch (const Error& error) {
    return error.what();
  }
}

const Variables torchrun = {
    {"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "29500"}};
const Variables open_mpi = {
    {"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
const Variables hydra = {{"PMI_RANK", "3"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "2"}};
const Variables srun = {{"SLURM_JOB_ID", "4711"},
                        {"SLURM_STEP_ID", "0"},
                        {"SLURM_PROCID", "6"},
                        {"SLURM_NTASKS", "8"},
                        {"SLURM_STEP_NUM_TASKS", "8"},
                        {"SLURM_LOCALID", "2"},
                        {"SLURM_STEP_NODELIST", "gpu[03-04]"}};

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}
Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

struct Case {
  std::string name;
  Variables variables;
  std::string found;
};

TEST(Launch, FindsThePlace) {
  const Case cases[] = {
      {"nothing", {}, "0 of 1, local 0, at :0, by "},
      {"torchrun", torchrun, "5 of 8, local 1, at node0:29500, by RANK and WORLD_SIZE"},
      {"torchrun on IPv6", with(torchrun, {{"MASTER_ADDR", "::1"}}),
       "5 of 8, local 1, at ::1:29500, by RANK and WORLD_SIZE"},
      {"torchrun that listens at its port", with(torchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}}),
       "5 of 8, local 1, at node0:29501, by RANK and WORLD_SIZE"},
      {"torchrun that does not", with(torchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}}),
       "5 of 8, local 1, at node0:29500, by RANK and WORLD_SIZE"},
      {"no local rank", without(torchrun, "LOCAL_RANK"), "5 of 8, local -1, at node0:29500, by RANK and WORLD_SIZE"},
      {"one of one", {{"RANK", "0"}, {"WORLD_SIZE", "1"}}, "0 of 1, local 0, at :0, by RANK and WORLD_SIZE"},
      {"largest world",
       {{"RANK", "2147483646"}, {"WORLD_SIZE", "2147483647"}},
       "2147483646 of 2147483647, local -1, at :0, by RANK and WORLD_SIZE"},
      {"Open MPI", open_mpi, "3 of 4, local 1, at :0, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"MPICH", hydra, "3 of 4, local 2, at :0, by PMI_RANK and PMI_SIZE"},
      {"MPICH without local rank", without(hydra, "MPI_LOCALRANKID"),
       "3 of 4, local -1, at :0, by PMI_RANK and PMI_SIZE"},
      {"mpirun with an address", with(open_mpi, {{"MASTER_ADDR", "n"}, {"MASTER_PORT", "1"}}),
       "3 of 4, local 1, at n:1, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"two that agree", with(open_mpi, hydra),
       "3 of 4, local 1, at :0, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"the second knows the local rank", with(without(open_mpi, "OMPI_COMM_WORLD_LOCAL_RANK"), hydra),
       "3 of 4, local 2, at :0, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"RANK copied from mpirun, one device shown",
       with(open_mpi, {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}}),
       "3 of 4, local 0, at :0, by RANK and WORLD_SIZE"},
      {"srun", srun, "6 of 8, local 2, at gpu03:14711, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"srun with an address", with(srun, {{"MASTER_ADDR", "n"}, {"MASTER_PORT", "65535"}}),
       "6 of 8, local 2, at n:65535, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"an old srun", without(srun, "SLURM_STEP_NUM_TASKS"),
       "6 of 8, local 2, at gpu03:14711, by SLURM_PROCID and SLURM_NTASKS"},
      {"srun's second step", with(srun, {{"SLURM_STEP_ID", "3"}}),
       "6 of 8, local 2, at gpu03:14714, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"a large job number", with(srun, {{"SLURM_JOB_ID", "40019999"}, {"SLURM_STEP_ID", "1"}}),
       "6 of 8, local 2, at gpu03:10000, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"a smaller step of a larger job", with(srun, {{"SLURM_NTASKS", "64"}}),
       "6 of 8, local 2, at gpu03:14711, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"a batch script",
       {{"SLURM_JOB_ID", "1"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "0"}},
       "0 of 1, local 0, at :0, by "},
      {"salloc's shell as a step",
       {{"SLURM_STEP_ID", "4294967290"},
        {"SLURM_PROCID", "0"},
        {"SLURM_NTASKS", "4"},
        {"SLURM_STEP_NUM_TASKS", "1"},
        {"SLURM_LOCALID", "0"},
        {"SLURM_STEP_NODELIST", "n1"}},
       "0 of 1, local 0, at :0, by SLURM_PROCID and SLURM_STEP_NUM_TASKS"},
      {"mpirun in a batch script", with(open_mpi, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}),
       "3 of 4, local 1, at :0, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"mpirun's daemons by srun", with(open_mpi, srun),
       "3 of 4, local 1, at :0, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE"},
      {"torchrun by srun, once for each host",
       with(torchrun, with(srun, {{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_LOCALID", "0"}})),
       "5 of 8, local 1, at node0:29500, by RANK and WORLD_SIZE"},
      {"RANK copied from srun", with(srun, {{"RANK", "6"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "2"}}),
       "6 of 8, local 2, at :0, by RANK and WORLD_SIZE"},
      {"an address alone says nothing of ranks",
       {{"MASTER_ADDR", "n"}, {"MASTER_PORT", "80"}},
       "0 of 1, local 0, at n:80, by "},
      {"LOCAL_RANK alone", {{"LOCAL_RANK", "3"}}, "0 of 1, local 0, at :0, by "},
  };
  for (const Case& one : cases) EXPECT_EQ(message(one.variables), "found " + one.found) << one.name;
}

TEST(Launch, FirstHostOfAList) {
  const std::map<std::string, std::string> hosts = {
      {"n1", "n1"},         {"n1,n2", "n1"},          {"gpu[03-07,12],n1", "gpu03"},
      {"gpu[7,9]", "gpu7"}, {"a[1-2]b[3-4]", "a1b3"}, {"gpu[001].hall-2", "gpu001.hall-2"},
      {"node-a", "node-a"}};
  for (const auto& [list, host] : hosts)
    EXPECT_THAT(message(with(srun, {{"SLURM_STEP_NODELIST", list}})), HasSubstr(" at " + host + ":14711")) << list;
}

TEST(Launch, NonsenseIsNamedWithItsValue) {
  const auto number = [](const std::string& name, const std::string& value, const std::string& range) {
    return fmt::format("{} is '{}', not a whole number from {}; set it right or unset it", name, value, range);
  };
  for (const std::string value : {"-1", "2147483648", "99999999999999999999", "3x", "x", "", " 3", "3 ", "+3", "3.0",
                                  "0x3", "1e0", "--1", "3\n"}) {
    EXPECT_EQ(message(with(torchrun, {{"RANK", value}})), number("RANK", value, "0 to 2147483647"));
    EXPECT_EQ(message(with(open_mpi, {{"OMPI_COMM_WORLD_SIZE", value}})),
              number("OMPI_COMM_WORLD_SIZE", value, "1 to 2147483647"));
    EXPECT_EQ(message(with(hydra, {{"MPI_LOCALRANKID", value}})), number("MPI_LOCALRANKID", value, "0 to 3"));
    EXPECT_EQ(message(with(srun, {{"SLURM_PROCID", value}})), number("SLURM_PROCID", value, "0 to 2147483647"));
    EXPECT_EQ(message(with(torchrun, {{"MASTER_PORT", value}})), number("MASTER_PORT", value, "1 to 65535"));
  }
  EXPECT_EQ(message(with(torchrun, {{"WORLD_SIZE", "0"}})), number("WORLD_SIZE", "0", "1 to 2147483647"));
  EXPECT_EQ(message(with(torchrun, {{"LOCAL_RANK", "8"}})), number("LOCAL_RANK", "8", "0 to 7"));
  EXPECT_EQ(message(with(torchrun, {{"MASTER_PORT", "0"}})), number("MASTER_PORT", "0", "1 to 65535"));
  EXPECT_EQ(message(with(torchrun, {{"MASTER_PORT", "65536"}})), number("MASTER_PORT", "65536", "1 to 65535"));
  EXPECT_EQ(message(with(srun, {{"SLURM_JOB_ID", "x"}})), number("SLURM_JOB_ID", "x", "0 to 2147483647"));
  EXPECT_EQ(message(with(torchrun, {{"MASTER_ADDR", ""}})),
            "MASTER_ADDR is set, but empty; set it to the host of rank 0 or unset it");
  EXPECT_EQ(message(with(torchrun, {{"RANK", "8"}})),
            "RANK is 8 and WORLD_SIZE is 8, but ranks go from 0 to one less than their number");
  EXPECT_EQ(message(with(hydra, {{"PMI_RANK", "9"}})),
            "PMI_RANK is 9 and PMI_SIZE is 4, but ranks go from 0 to one less than their number");
  EXPECT_EQ(message(with(srun, {{"SLURM_STEP_NODELIST", "gpu[03-"}})),
            "SLURM_STEP_NODELIST is 'gpu[03-', where a ']' is missing");
  EXPECT_EQ(message(with(srun, {{"SLURM_STEP_NODELIST", ",n1"}})), "SLURM_STEP_NODELIST is ',n1', which names no host");
}

TEST(Launch, HalfASourceIsNamed) {
  const auto half = [](const std::string& has, const std::string& lacks) {
    return fmt::format("{}, but {} is not set; set both or neither", has, lacks);
  };
  EXPECT_EQ(message(without(torchrun, "WORLD_SIZE")), half("RANK is 5", "WORLD_SIZE"));
  EXPECT_EQ(message(without(torchrun, "RANK")), half("WORLD_SIZE is 8", "RANK"));
  EXPECT_EQ(message(without(torchrun, "MASTER_PORT")), half("MASTER_ADDR is 'node0'", "MASTER_PORT"));
  EXPECT_EQ(message(without(torchrun, "MASTER_ADDR")), half("MASTER_PORT is 29500", "MASTER_ADDR"));
  EXPECT_EQ(message(without(open_mpi, "OMPI_COMM_WORLD_SIZE")),
            half("OMPI_COMM_WORLD_RANK is 3", "OMPI_COMM_WORLD_SIZE"));
  EXPECT_EQ(message(without(hydra, "PMI_RANK")), half("PMI_SIZE is 4", "PMI_RANK"));
  EXPECT_EQ(message(without(srun, "SLURM_PROCID")), half("SLURM_STEP_NUM_TASKS is 8", "SLURM_PROCID"));
}

TEST(Launch, SourcesThatDisagreeAreBothNamed) {
  EXPECT_EQ(message(with(torchrun, open_mpi)),
            "RANK and WORLD_SIZE say rank 5 of 8, but OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE say rank 3 of 4; "
            "unset or leave out those that did not start this process");
  EXPECT_THAT(message(with(torchrun, hydra)), HasSubstr("but PMI_RANK and PMI_SIZE say rank 3 of 4"));
  EXPECT_THAT(message(with(open_mpi, {{"PMI_RANK", "2"}, {"PMI_SIZE", "4"}})),
              HasSubstr("but PMI_RANK and PMI_SIZE say rank 2 of 4"));
  EXPECT_EQ(message(with(srun, {{"RANK", "0"}, {"WORLD_SIZE", "1"}})),
            "RANK and WORLD_SIZE say rank 0 of 1, but srun started 8 tasks (SLURM_PROCID and SLURM_STEP_NUM_TASKS); "
            "unset RANK and WORLD_SIZE if srun started this process, or start it with one task for each host");
}

TEST(Launch, WhatIsGivenComesFirst) {
  const Place given{3, 4, 1, "host", 1234, "--rank and --ranks"};
  EXPECT_EQ(message({}, given), "found " + text(given));
  EXPECT_EQ(message(open_mpi, given), "found " + text(given));
  EXPECT_EQ(message(srun, Place{0, 1, 0, "", 0, "--rank and --ranks"}),
            "found 0 of 1, local 0, at :0, by --rank and --ranks");
  EXPECT_THAT(message({{"MASTER_ADDR", "n"}, {"MASTER_PORT", "1"}}, Place{3, 4, 1, "", 0, "--rank"}),
              HasSubstr("at n:1, by --rank"));
  EXPECT_EQ(message(torchrun, given),
            "--rank and --ranks say rank 3 of 4, but RANK and WORLD_SIZE say rank 5 of 8; unset or leave out those "
            "that did not start this process");
  EXPECT_THAT(message({}, Place{4, 4, 0, "", 0, "--rank"}), HasSubstr("--rank: rank 4 of 4, but"));
  EXPECT_THAT(message({}, Place{-1, 4, 0, "", 0, "--rank"}), HasSubstr("--rank: rank -1 of 4, but"));
  EXPECT_THAT(message({}, Place{0, 0, 0, "", 0, "--rank"}), HasSubstr("--rank: rank 0 of 0, but"));
  EXPECT_EQ(message({}, Place{0, 1, 0, "n", 65536, "--port"}), "--port: port 65536 is not from 1 to 65535");
}

TEST(Launch, ReadsTheRealEnvironment) {
  ASSERT_EQ(::setenv("TESSERA_TEST_VARIABLE", "here", 1), 0);
  EXPECT_EQ(comm::environment("TESSERA_TEST_VARIABLE"), "here");
  ASSERT_EQ(::unsetenv("TESSERA_TEST_VARIABLE"), 0);
  EXPECT_EQ(comm::environment("TESSERA_TEST_VARIABLE"), std::nullopt);
}

TEST(Launch, WhatIsUnderWayMustBeWhatWasSaid) {
  const auto expect = [](const Place& place, int rank, int size) -> std::string {
    try {
      comm::expect(place, rank, size, "MPI_Init");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const Place place = comm::find_place(fake(torchrun));
  EXPECT_EQ(expect(place, 5, 8), "");
  EXPECT_EQ(expect(place, 0, 1),
            "RANK and WORLD_SIZE say rank 5 of 8, but MPI_Init says rank 0 of 1; most likely the program was built "
            "with another MPI than the launcher's, or not started by one");
  EXPECT_EQ(expect(place, 3, 8),
            "RANK and WORLD_SIZE say rank 5 of 8, but MPI_Init says rank 3 of 8; most likely the variables were left "
            "over from another launcher: unset them");
  EXPECT_EQ(expect(Place{}, 2, 4), "") << "nothing was said";
}

}  // namespace
}  // namespace tessera
