// How much of the gradients' communication is hidden behind backward: training steps of ranks whose buckets travel
// while backward goes on, against the same steps with one bucket behind it. Started by mpirun; bench/overlap.sh limits
// the link. Messages are counted where MPI is called.
#include <fmt/format.h>
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <vector>

#include "objective.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/tessera.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace {

std::atomic<std::int64_t> messages_sent{0}, bytes_sent{0};

}  // namespace

extern "C" int MPI_Isend(const void* values, int count, MPI_Datatype type, int to, int tag, MPI_Comm communicator,
                         MPI_Request* request) {
  int size = 0;
  PMPI_Type_size(type, &size);
  ++messages_sent;
  bytes_sent += std::int64_t{count} * size;
  return PMPI_Isend(values, count, type, to, tag, communicator, request);
}

namespace {

namespace ts = tessera;
using Frozen = ts::vit::policies<ts::embed::FrozenPatches>;
using Tiny = ts::objectives::MoCoV3<ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, Frozen>, ts::heads::Mlp<3, 512, 128>,
                                    ts::heads::Mlp<2, 512, 128>>;
using Backend = ts::cpu::Backend<float>;
using Ranks = ts::comm::Recorded<ts::comm::Mpi>;
template <class Communicator>
using Trainer = ts::Trainer<Tiny, ts::Device<Backend, Communicator>>;

struct Options {
  int batch = 256, rounds = 9, steps = 3, bucket_kib = 256;
};

// What one way to make a step costs, for one step: seconds of each round, and what this rank sends.
struct Cost {
  std::vector<double> seconds;
  std::int64_t messages = 0, bytes = 0;

  [[nodiscard]] double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
};

// Times `steps` calls of body on all ranks, who begin together.
template <class Body>
void measure(const Options& options, Ranks& ranks, Cost& cost, Body&& body) {
  ts::comm::Host host;
  double together = 0;
  ranks.all_reduce(host, &together, 1);
  const std::int64_t messages = messages_sent, bytes = bytes_sent;
  const ts::Stopwatch watch;
  for (int step = 0; step < options.steps; ++step) body();
  cost.seconds.push_back(watch.seconds() / options.steps);
  cost.messages = (messages_sent - messages) / options.steps;
  cost.bytes = (bytes_sent - bytes) / options.steps;
}

void report(const Options& options, int ranks, std::size_t gradient, std::array<Cost, 4>& costs) {
  auto& [compute, communication, with, without] = costs;
  const double minimum = 2.0 * (ranks - 1) / ranks * static_cast<double>(gradient * sizeof(float));
  fmt::print("ViT-tiny, {} ranks of {} images, {:.2f} MB of gradients, buckets of {} KiB\n\n", ranks, options.batch,
             static_cast<double>(gradient * sizeof(float)) / 1e6, options.bucket_kib);
  fmt::print("| what | ms | messages | MB sent | MB sent against the minimum |\n");
  fmt::print("| --- | --- | --- | --- | --- |\n");
  const auto row = [&](const char* name, Cost& cost) {
    const double bytes = static_cast<double>(cost.bytes);
    fmt::print("| {} | {:.1f} | {} | {:.3f} | {:.3f} |\n", name, 1e3 * cost.median(), cost.messages, bytes / 1e6,
               bytes / minimum);
  };
  row("compute alone", compute);
  row("gradients alone", communication);
  row("step, one bucket behind backward", without);
  row("step, buckets beside backward", with);
  const double saved = without.median() - with.median();
  fmt::print(
      "\nhidden: {:.0f} % of the gradients' communication, {:.0f} % of what it adds to the step behind backward\n",
      100 * saved / communication.median(), 100 * saved / (without.median() - compute.median()));
}

void run(const Options& options) {
  Ranks ranks(ts::comm::Mpi::world());
  ts::comm::Serial nobody;
  Backend backends[] = {Backend(1), Backend(1), Backend(1)};
  const ts::optim::AdamW rule;
  const auto with_buckets = [&](ts::index bytes) {
    return ts::TrainerSettings{.batch = options.batch, .seed = 1, .bucket_bytes = bytes};
  };
  Trainer<ts::comm::Serial> alone(backends[0], nobody, rule, with_buckets(ts::comm::default_bucket_bytes));
  Trainer<Ranks> beside(backends[1], ranks, rule, with_buckets(ts::index{options.bucket_kib} << 10));
  Trainer<Ranks> behind(backends[2], ranks, rule, with_buckets(std::numeric_limits<ts::index>::max()));
  std::vector<float> images(static_cast<std::size_t>(2 * options.batch * Tiny::Encoder::in)),
      gradient(bench::OnlineLayout<Tiny>::parameters);
  ts::Random random(1, ts::Purpose::test, 0, static_cast<std::uint32_t>(ranks.rank()));
  for (float& value : images) value = random.uniform(-1, 1);
  const auto views = bench::batch_of<Tiny>(static_cast<const float*>(images.data()), options.batch);
  ts::StepSettings<Tiny> settings;
  settings.learning_rate = 1e-4;
  double losses[] = {0, 0};

  std::array<Cost, 4> costs;
  for (int round = 0; round <= options.rounds; ++round) {
    measure(options, ranks, costs[0], [&] { alone.step(views, settings); });
    measure(options, ranks, costs[1], [&] {
      ts::comm::Host host;
      ranks.all_reduce(host, gradient.data(), static_cast<ts::index>(gradient.size()));
    });
    measure(options, ranks, costs[2], [&] { losses[0] = beside.step(views, settings); });
    measure(options, ranks, costs[3], [&] { losses[1] = behind.step(views, settings); });
    if (losses[0] != losses[1])
      ts::fail("round {}: the loss is {} with buckets and {} with one; they must have the same bits", round, losses[0],
               losses[1]);
    if (round == 0)  // the first steps of a process take longer
      for (Cost& cost : costs) cost.seconds.clear();
  }
  if (ranks.rank() == 0) report(options, ranks.size(), gradient.size(), costs);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures how much of the gradients' communication a training step hides; started by mpirun.");
  app.add_option("--batch-size", options.batch, "images of each rank")->check(CLI::Range(2, 4096));
  app.add_option("--rounds", options.rounds, "measurements, of which the median counts")->check(CLI::Range(1, 1000));
  app.add_option("--steps", options.steps, "steps in a measurement")->check(CLI::Range(1, 1000));
  app.add_option("--bucket-kib", options.bucket_kib, "least size of a bucket")->check(CLI::Range(1, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "overlap: {}\n", problem.what());
    return 1;
  }
}
