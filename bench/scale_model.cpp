// Predicts a training step of MoCo v3 on clusters: its time, what its collectives cost, and what limits it
// (docs/scaling.md). Tables are Markdown, or CSV with --csv.
#include "scale_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "simgrid/replay.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace bench {
namespace {

struct Options {
  std::vector<std::string> models{"base", "large", "huge"};
  std::vector<int> gpus{8, 16, 32, 64, 128, 256, 512, 1024};
  double bucket_mib = 25;
  bool bf16_gradients = false, csv = false, traffic = false;
  std::string replay;
  Plan plan;
  Cluster cluster;
};

Model model(const std::string& name) {
  namespace vit = ts::vit;
  namespace heads = ts::heads;
  namespace objectives = ts::objectives;
  if (name == "tiny")  // the quickstart's
    return describe<objectives::MoCoV3<vit::Tiny<>, heads::Mlp<3, 512, 128>, heads::Mlp<2, 512, 128>>>("ViT-tiny");
  if (name == "small") return describe<objectives::MoCoV3<vit::Small<>>>("ViT-S/16");
  if (name == "base") return describe<objectives::MoCoV3<vit::Base<>>>("ViT-B/16");
  if (name == "large") return describe<objectives::MoCoV3<vit::Large<>>>("ViT-L/16");
  return describe<objectives::MoCoV3<vit::Huge<>>>("ViT-H/14");
}

// Rows of cells with a heading.
class Table {
 public:
  Table(bool csv, const std::vector<std::string>& heading) : csv_(csv) {
    row(heading);
    if (!csv_) fmt::print("|{}\n", fmt::join(std::vector<std::string>(heading.size(), " --- |"), ""));
  }
  void row(const std::vector<std::string>& cells) const {
    if (csv_)
      fmt::print("{}\n", fmt::join(cells, ","));
    else
      fmt::print("| {} |\n", fmt::join(cells, " | "));
  }

 private:
  bool csv_;
};

std::string milliseconds(double seconds) {
  return fmt::format("{:.2f}", seconds * 1e3);
}

// What keeps the step from taking no longer than its computation: the largest of the parts that nothing hides.
std::string limit(const StepTime& time) {
  using Cost = std::pair<double, std::string_view>;
  const std::array costs{Cost{time.gradients_exposed, "gradients"},
                         Cost{time.batch_norm, "BatchNorm"},
                         Cost{time.keys_exposed, "keys"},
                         Cost{time.optimizer, "optimizer"},
                         Cost{time.parameters, "weights"},
                         Cost{time.averages, "teacher"},
                         Cost{time.control, "control"}};
  const Cost& most = *std::max_element(costs.begin(), costs.end());
  return fmt::format("{} {:.1f} %", most.second, 100 * most.first / time.total());
}

void print_steps(const Options& options) {
  std::vector<std::string> heading{"model",        "GPUs",       "images per GPU", "compute ms", "buckets",
                                   "gradients ms", "exposed ms", "BatchNorm ms",   "keys ms",    "keys exposed ms",
                                   "optimizer ms", "control ms"};
  if (options.plan.zero) heading.insert(heading.end(), {"weights ms", "teacher ms"});
  heading.insert(heading.end(), {"step ms", "efficiency %", "images/s", "largest loss"});
  const Table table(options.csv, heading);
  for (const std::string& name : options.models) {
    const Model one = model(name);
    for (const int gpus : options.gpus) {
      Plan plan = options.plan;
      plan.ranks = gpus;
      const StepTime time = step_time(one, plan, options.cluster, NcclNetwork(options.cluster, gpus));
      std::vector<std::string> cells{one.name,
                                     fmt::format("{}", gpus),
                                     fmt::format("{}", plan.images_per_rank()),
                                     milliseconds(time.compute),
                                     fmt::format("{}", buckets(one, plan.bucket_bytes).size()),
                                     milliseconds(time.gradients),
                                     milliseconds(time.gradients_exposed),
                                     milliseconds(time.batch_norm),
                                     milliseconds(time.keys),
                                     milliseconds(time.keys_exposed),
                                     milliseconds(time.optimizer),
                                     milliseconds(time.control)};
      if (plan.zero) cells.insert(cells.end(), {milliseconds(time.parameters), milliseconds(time.averages)});
      cells.insert(cells.end(), {milliseconds(time.total()), fmt::format("{:.1f}", 100 * time.efficiency()),
                                 fmt::format("{:.0f}", static_cast<double>(plan.images) / time.total()), limit(time)});
      table.row(cells);
    }
  }
}

// What rank 0 of comm::Mpi sends in a step, and the fewest bytes.
void print_traffic(const Options& options) {
  const Table table(options.csv, {"model", "ranks", "calls", "messages sent", "MB sent", "fewest MB", "ratio"});
  for (const std::string& name : options.models) {
    const Model one = model(name);
    for (const int ranks : options.gpus) {
      Plan plan = options.plan;
      plan.ranks = ranks;
      plan.activations = comm::Type::float32;
      const auto calls = collectives(one, plan);
      Traffic total;
      double fewest = 0;
      for (const Collective& call : calls) {
        const Traffic traffic = sent(call, ranks, 0);
        total.messages += traffic.messages;
        total.bytes += traffic.bytes;
        fewest += fewest_bytes(call, ranks);
      }
      const auto bytes = static_cast<double>(total.bytes);
      table.row({one.name, fmt::format("{}", ranks), fmt::format("{}", calls.size()), fmt::format("{}", total.messages),
                 fmt::format("{:.3f}", bytes / 1e6), fmt::format("{:.3f}", fewest / 1e6),
                 fewest > 0 ? fmt::format("{:.3f}", bytes / fewest) : "-"});
    }
  }
}

// Traces of the first model on the first number of GPUs, and what the model says about them.
void write_replay(const Options& options) {
  const Model one = model(options.models.front());
  Plan plan = options.plan;
  plan.ranks = options.gpus.front();
  if (plan.ranks < 2) ts::fail("--replay needs at least 2 GPUs: one alone sends nothing");
  const NcclNetwork nccl(options.cluster, plan.ranks);
  const RingNetwork ring{plan.ranks, nccl.mean_hop(), nccl.bus_bandwidth()};
  const auto all = collectives(one, plan);
  std::vector<Collective> gradients;
  for (const Collective& call : all)
    if (call.part == Part::gradients) gradients.push_back(call);

  write_platform(options.replay, ring);
  const auto write = [&](const std::string& name, const std::vector<Collective>& calls) {
    write_trace(options.replay, name, calls, plan.ranks);
    double seconds = 0;
    for (const Collective& call : calls) seconds += ring.seconds(call);
    fmt::print("{} {} {:.9f}\n", name, calls.size(), seconds);
  };
  write("gradients", gradients);
  write("step", all);
}

// False: --help was asked for, and answered.
bool parse(Options& options, int argc, char** argv) {
  CLI::App app("Predicts the time of a MoCo v3 training step on clusters of GPUs, and what limits it.");
  app.option_defaults()->always_capture_default();
  app.add_option("--model", options.models, "tiny, small, base, large, huge")
      ->delimiter(',')
      ->check(CLI::IsMember({"tiny", "small", "base", "large", "huge"}));
  app.add_option("--gpus", options.gpus, "numbers of ranks")->delimiter(',')->check(CLI::Range(1, 1 << 20));
  app.add_option("--images", options.plan.images, "of a step, on all ranks")->check(CLI::PositiveNumber);
  app.add_option("--bucket-mib", options.bucket_mib, "least size of a bucket of gradients")->check(CLI::PositiveNumber);
  app.add_flag("--bf16-gradients", options.bf16_gradients, "gradients travel as bf16");
  app.add_flag("--zero", options.plan.zero, "optimizer states and the teacher's average are split over the ranks");
  app.add_option_function<double>(
         "--bus-bandwidth", [&](double gigabytes) { options.cluster.bus_between_nodes = gigabytes * 1e9; },
         "GB/s between nodes, as nccl-tests defines it [330.9]")
      ->check(CLI::PositiveNumber);
  app.add_option("--gpus-per-node", options.cluster.gpus_per_node, "joined by NVLink")->check(CLI::Range(1, 1024));
  app.add_option("--flops-share", options.cluster.share, "of the peak, which a step reaches")
      ->check(CLI::Range(0.01, 1.0));
  app.add_flag("--traffic", options.traffic, "what comm::Mpi sends on hosts, instead");
  app.add_option("--replay", options.replay, "folder for a platform and traces of the first model and number, instead");
  app.add_flag("--csv", options.csv, "tables as CSV");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {
    app.exit(wish);
    return false;
  } catch (const CLI::ParseError& problem) {
    ts::fail("{} (--help lists the flags)", problem.what());
  }
  options.plan.bucket_bytes = static_cast<index>(options.bucket_mib * (1 << 20));
  if (options.bf16_gradients) options.plan.gradients = comm::Type::bfloat16;
  return true;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    bench::Options options;
    if (!bench::parse(options, argc, argv)) return 0;
    if (!options.replay.empty())
      bench::write_replay(options);
    else if (options.traffic)
      bench::print_traffic(options);
    else
      bench::print_steps(options);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "scale_model: {}\n", problem.what());
    return 2;
  }
}
