// One rank under mpirun: `mpi_collectives CASE`, where `definition` is what collective_test.cpp runs on threads, and
// the other cases break something. Each rank prints a line that says what it saw; mpi_test.py checks them.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>

#include "comm/collective_suite.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/testing/checked.hpp"
#include "tessera/testing/faulty.hpp"

namespace tessera::test {
namespace {

using comm::Mpi;
using testing::Fault;

void say(const Mpi& world, const std::string& text) {
  std::fputs(fmt::format("rank {}: {}\n", world.rank(), text).c_str(), stdout);
  std::fflush(stdout);
}
// A rank that leaves without finalising makes the launcher end the others, which are to speak before.
void let_others_speak() {
  std::this_thread::sleep_for(std::chrono::seconds(1));
}
[[noreturn]] void sleep_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

void definition(Mpi& world) {
  check_all(world);
  Mpi again = Mpi::world();
  check_counts<float>(again);
  testing::Checked decorated{comm::Recorded{testing::Faulty{world.duplicate()}}};
  check_counts<double>(decorated);
  check_duplicate(decorated);
}

// Values that do not fit into one message, nor into the buffers between processes.
void large(Mpi& world) {
  check_operations<float>(world, Values::random, even_cuts(4500000, world.size()));
  check_operations<double>(world, Values::whole, even_cuts(1500001, world.size(), 128));
}

// Calls of all sizes, one after the other without a pause, do not mix.
void many(Mpi& world) {
  for (int i = 0; i < 300; ++i)
    check_operations<double>(world, Values::random, even_cuts((i * 37) % 4000, world.size()));
}

void silence(Mpi& world) {
  check_silent_rank(world, [] { sleep_for_ever(); });
}
// The last rank gets SIGSTOP in call 3.
void stop(Mpi& world) {
  testing::Faulty faulty(world.duplicate(),
                         Fault{world.rank() == world.size() - 1 ? Fault::Kind::stop : Fault::Kind::none, 3});
  faulty.set_deadline(short_deadline);
  comm::Host host;
  double value = 1;
  const std::string message = lost([&] {
    for (;;) faulty.all_reduce(host, &value, 1);
  });
  require_in(fmt::format("all_reduce of 1 double (call 3): rank {} did not come within 0.5 s", world.size() - 1),
             message);
}
// The last rank gets SIGKILL in call 3; the launcher ends the others, or they find out.
void death(Mpi& world) {
  testing::Faulty faulty(world.duplicate(),
                         Fault{world.rank() == world.size() - 1 ? Fault::Kind::death : Fault::Kind::none, 3});
  comm::Host host;
  double value = 1;
  lost([&] {
    for (;;) faulty.all_reduce(host, &value, 1);
  });
}
void abort(Mpi& world) {
  check_abort(world);
}
void disagreement(Mpi& world) {
  testing::Checked checked{world.duplicate()};
  check_disagreement(checked);
}
// Nothing is agreed on beforehand: rank 1 expects more values than come, rank 2 fewer.
void length(Mpi& world) {
  comm::Host host;
  std::vector<double> values(12);
  const std::string message = lost([&] {
    world.broadcast(host, values.data(), world.rank() == 1 ? 12 : world.rank() == 2 ? 8 : 10);
    world.all_reduce(host, values.data(), 3);
  });
  if (world.rank() == 1) require_in("rank 0 sent 80 bytes where 96 were expected", message);
  if (world.rank() == 2) require_in("runcated", message);
}
// Rank 1 is left by an exception that destroys its communicator: the others hear of it at once.
void exception(Mpi& world) {
  if (world.rank() == 1) {
    Mpi gone = std::move(world);
    fail("rank 1 has no data");
  }
  comm::Host host;
  double value = 1;
  const Stopwatch watch;
  require_in("rank 1 gave up", lost([&] { world.all_reduce(host, &value, 1); }));
  require(watch.seconds() < 1, "rank {}: heard of rank 1's exception after {:.2f} s", world.rank(), watch.seconds());
}

const std::map<std::string, std::function<void(Mpi&)>> cases{{"definition", definition},
                                                             {"large", large},
                                                             {"many", many},
                                                             {"silence", silence},
                                                             {"stop", stop},
                                                             {"death", death},
                                                             {"abort", abort},
                                                             {"disagreement", disagreement},
                                                             {"length", length},
                                                             {"exception", exception}};

}  // namespace
}  // namespace tessera::test

int main(int argc, char** argv) {
  using namespace tessera;
  using namespace tessera::test;
  const std::string name = argc == 2 ? argv[1] : "";
  if (!cases.contains(name)) {
    std::fputs("usage: mpi_collectives CASE\n", stderr);
    return 64;
  }
  const bool breaks = name != "definition" && name != "large" && name != "many";
  int rank = -1;
  try {
    comm::Mpi world = comm::Mpi::world();
    rank = world.rank();
    cases.at(name)(world);
    say(world, "right");
    if (breaks) let_others_speak();
  } catch (const std::exception& error) {
    std::fputs(fmt::format("rank {}: {}\n", rank, error.what()).c_str(), stdout);
    std::fflush(stdout);
    if (breaks) let_others_speak();
    return 1;
  }
  if (breaks) comm::Mpi::end_job(exit_code::rank_lost);
}
