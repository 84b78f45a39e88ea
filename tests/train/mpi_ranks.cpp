// One rank of a job under mpirun: trains as threads do, to the bit, and as one rank does, to rounding. Says what
// differs and returns 1 if anything does.
#include <cstdio>
#include <vector>

#include "support/ranks.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

int failures = 0;

void expect(bool right, const std::string& what) {
  if (right) return;
  fmt::print(stderr, "{}\n", what);
  ++failures;
}

// What ranks that are threads leave on rank `rank`.
template <class Optimizer, template <class, class> class Sharing>
Outcome<double> by_threads(int ranks, int rank, const Plan& plan) {
  Outcome<double> mine;
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    auto outcome = train<Optimizer, Sharing>(backend, communicator, plan);
    if (communicator.rank() == rank) mine = std::move(outcome);
  });
  return mine;
}

template <class Optimizer, template <class, class> class Sharing>
Outcome<double> check_threads(comm::Mpi& communicator, const Plan& plan, const char* what) {
  cpu::Backend<double> backend(1);
  const auto outcome = train<Optimizer, Sharing>(backend, communicator, plan);
  expect(outcome == by_threads<Optimizer, Sharing>(communicator.size(), communicator.rank(), plan),
         fmt::format("rank {} of {}: {} differs from what threads do", communicator.rank(), communicator.size(), what));
  return outcome;
}

void check_one_rank(const comm::Mpi& communicator, const Outcome<double>& outcome, const Plan& plan) {
  comm::Serial serial;
  cpu::Backend<double> backend(1);
  const auto alone = train<optim::Sgd>(backend, serial, plan);
  const double gradient = tensor_error<OnlineLayout<Learned>>(outcome.gradient, alone.gradient);
  const double weights = tensor_error<OnlineLayout<Learned>>(outcome.student, alone.student);
  expect(gradient <= 1e-10 && weights <= 1e-10,
         fmt::format("rank {} of {}: after {} steps the gradient is off by {}, weights by {}", communicator.rank(),
                     communicator.size(), plan.steps, gradient, weights));
}

void check_fixture(comm::Mpi& communicator) {
  const Fixture fixture(fmt::format("moco_ranks_{}", communicator.size()));
  cpu::Backend<double> backend(1);
  const index batch = fixture.tensor("x1").shape[0] / communicator.size();
  Session<Frozen, cpu::Backend<double>, comm::Mpi> run(backend, fixture, batch, optim::Sgd{}, communicator.duplicate());
  run.step(0, 0, fixture.number("m"));
  const auto gradient = run.gradient();
  for (const Entry& entry : OnlineLayout<Frozen>::entries) {
    const std::string name = "grad." + std::string(entry.name.view());
    if (!fixture.contains(name)) continue;
    const double error = relative_error(gradient.data() + entry.offset, fixture.tensor(name).values);
    expect(error <= 1e-9, fmt::format("rank {}: {} is off by {}", communicator.rank(), name, error));
  }
}

int run() {
  comm::Mpi communicator = comm::Mpi::world();
  communicator.set_deadline(std::chrono::seconds(60));
  const Plan plan{.steps = 3};
  check_threads<optim::AdamW, comm::Replicated>(communicator, plan, "AdamW");
  check_threads<optim::AdamW, comm::ZeroStage1>(communicator, plan, "AdamW with split states");
  const Plan longer{.steps = 20, .learning_rate = 0.03};
  check_one_rank(communicator, check_threads<optim::Sgd, comm::Replicated>(communicator, longer, "SGD"), longer);
  if (communicator.size() == 2 || communicator.size() == 3) check_fixture(communicator);
  double failed = failures;
  comm::Host host;
  communicator.all_reduce(host, &failed, 1);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera::test

int main() {
  try {
    return tessera::test::run();
  } catch (const std::exception& problem) {
    fmt::print(stderr, "{}\n", problem.what());
    tessera::comm::Mpi::end_job(1);
  }
}
