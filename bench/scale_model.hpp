// What a training step of MoCo v3 costs on many GPUs: its collectives, with sizes from the compile-time layouts; their
// times by latency and bandwidth (alpha and beta); and how much of them the computation hides. For planning: nothing in
// here has been measured on a cluster by this project. docs/scaling.md explains the model.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "objective.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"

namespace bench {

namespace ts = tessera;
namespace comm = tessera::comm;
using ts::index;

// --- What the model type says ---

// A part of the encoder whose gradients become final together: from here to the next stage's first scalar.
struct Stage {
  index first;           // scalar of the flat buffer
  double multiply_adds;  // of one forward of one image
};

struct Model {
  std::string name;
  index parameters, teacher, trained;       // scalars: student's flat buffer, teacher's, those with a gradient
  int views, out;                           // out: values of a key
  std::vector<Stage> stages;                // embeddings, each block, and the final norm with the heads
  std::vector<index> projector, predictor;  // columns of their BatchNorm layers
};

namespace detail {

constexpr std::string_view blocks_prefix = "base_encoder.blocks.";

inline bool is_head(std::string_view name) {
  return name.starts_with("base_encoder.head.") || name.starts_with("predictor.");
}

// Tensors of one stage have one key: "" for the embeddings, the number for a block, "heads" from the final norm on.
inline std::string_view stage_key(std::string_view name, bool behind_blocks) {
  if (!name.starts_with(blocks_prefix)) return behind_blocks ? "heads" : "";
  const std::string_view rest = name.substr(blocks_prefix.size());
  return rest.substr(0, rest.find('.'));
}

}  // namespace detail

// Multiply-adds by the model, as bench/cuda/step_bench.hpp counts them: every matrix once for each token that it sees,
// and 2 tokens^2 width for attention. Nothing is taken off for what need not be computed.
template <class Objective>
[[nodiscard]] Model describe(std::string name) {
  using Encoder = typename Objective::Encoder;
  constexpr double tokens = Encoder::tokens, patches = Encoder::patches, width = Encoder::width;
  Model model{std::move(name),
              OnlineLayout<Objective>::parameters,
              AverageLayout<Objective>::parameters,
              OnlineLayout<Objective>::trained_count,
              Objective::views,
              Objective::out,
              {},
              {},
              {}};
  std::string_view key = "nothing yet";
  for (const ts::Entry& entry : OnlineLayout<Objective>::entries) {
    const std::string_view tensor = entry.name.view();
    if (entry.role == ts::Role::statistic) {
      if (tensor.ends_with(".running_mean"))
        (tensor.starts_with("predictor.") ? model.predictor : model.projector).push_back(entry.size());
      continue;
    }
    if (const auto next = detail::stage_key(tensor, model.stages.size() > 1); next != key) {
      key = next;
      const bool block = tensor.starts_with(detail::blocks_prefix);
      model.stages.push_back({entry.offset, block ? 2 * tokens * tokens * width : 0});
    }
    const double uses = entry.shape.rank == 4     ? patches
                        : entry.shape.rank != 2   ? 0
                        : detail::is_head(tensor) ? 1
                                                  : tokens;
    model.stages.back().multiply_adds += uses * static_cast<double>(entry.size());
  }
  return model;
}

// --- How it is run ---

struct Plan {
  int ranks = 8;
  index images = 4096;                   // of a step, on all ranks together
  index bucket_bytes = index{25} << 20;  // a bucket of float gradients has at least so many, the last one excepted
  comm::Type gradients = comm::Type::float32;  // as they travel
  comm::Type activations = comm::Type::bfloat16;
  bool zero = false;  // optimizer states and the teacher's average are split over the ranks (ZeRO stage 1)

  [[nodiscard]] index images_per_rank() const {
    if (ranks < 1 || images < ranks || images % ranks != 0)
      ts::fail("{} images on {} ranks: every rank needs the same number of images, at least one", images, ranks);
    return images / ranks;
  }
};

// [first, last) of the flat gradient buffer; final when backward has left `stage`.
struct Bucket {
  index first, last;
  std::size_t stage;
};

// In the order in which they become final: from the end of the buffer to its start, cut where stages begin.
[[nodiscard]] inline std::vector<Bucket> buckets(const Model& model, index bucket_bytes) {
  std::vector<Bucket> all;
  index last = model.parameters;
  for (std::size_t stage = model.stages.size(); stage-- > 0;) {
    const index first = model.stages[stage].first;
    if (stage != 0 && (last - first) * index{sizeof(float)} < bucket_bytes) continue;
    all.push_back({first, last, stage});
    last = first;
  }
  return all;
}

[[nodiscard]] constexpr index bytes_of(comm::Type type) {
  constexpr index bytes[] = {1, 4, 8, 2, 4, 8};
  return bytes[static_cast<int>(type)];
}

// --- The step's collectives ---

enum class Part { averages, batch_norm, keys, gradients, control, parameters };

struct Collective {
  Part part;
  comm::Operation operation;
  comm::Type type;
  index count;  // elements of the buffer on which all ranks work: of an all_gather, what each has at its end

  [[nodiscard]] index bytes() const { return count * bytes_of(type); }
};

namespace detail {

// Both views' sums, sums of squares and numbers of rows travel together; backward's two sums and numbers likewise.
inline Collective batch_norm(const Model& model, index columns) {
  return {Part::batch_norm, comm::Operation::all_reduce, comm::Type::float64, model.views * (2 * columns + 1)};
}
// Loss, number of values that are not finite, and wishes to stop.
inline constexpr Collective control{Part::control, comm::Operation::all_reduce, comm::Type::float64, 3};

}  // namespace detail

// All calls of one step, in the order in which a rank makes them.
[[nodiscard]] inline std::vector<Collective> collectives(const Model& model, const Plan& plan) {
  using comm::Operation;
  std::vector<Collective> calls;
  const std::vector<Bucket> ranges = buckets(model, plan.bucket_bytes);
  const auto norms = [&](const std::vector<index>& columns) {
    for (const index one : columns) calls.push_back(detail::batch_norm(model, one));
  };
  const auto gather = [&](Part part, comm::Type type, index count) {
    for (const Bucket& range : ranges)
      if (range.first < count)
        calls.push_back({part, Operation::all_gather, type, (std::min)(range.last, count) - range.first});
  };
  const auto gathers = [&](Part part, index count) {
    gather(part, comm::Type::float32, count);
    if (plan.activations == comm::Type::bfloat16) gather(part, plan.activations, count);  // the copy that products read
  };
  if (plan.zero) gathers(Part::averages, model.teacher);
  norms(model.projector);
  for (int view = 0; view < model.views; ++view)
    calls.push_back(
        {Part::keys, Operation::all_gather, plan.activations, plan.images_per_rank() * plan.ranks * model.out});
  norms(model.projector);
  norms(model.predictor);
  norms({model.predictor.rbegin(), model.predictor.rend()});
  norms({model.projector.rbegin(), model.projector.rend()});
  for (const Bucket& range : ranges)
    calls.push_back({Part::gradients, plan.zero ? Operation::reduce_scatter : Operation::all_reduce, plan.gradients,
                     range.last - range.first});
  calls.push_back(detail::control);
  if (plan.zero) gathers(Part::parameters, model.parameters);
  return calls;
}

// --- Time of a collective ---

// GPUs and what joins them. Defaults: nodes of 8 H200 with NVLink, and 3.2 Tb/s of InfiniBand each.
struct Cluster {
  int gpus_per_node = 8;
  double flops = 989e12;   // bf16, dense: NVIDIA's data sheets of H100 SXM and H200
  double share = 0.4;      // of that, which a step reaches: an assumption until it has been measured
  double memory = 4.3e12;  // bytes/s of a pass over memory, as docs/performance-gpu.md assumes; its data sheet: 4.8e12
  // Bus bandwidths, bytes/s, as nccl-tests defines them: of 8 and of 32 H100 of a public cloud with such links (Voltage
  // Park's published all_reduce_perf runs with NCCL 2.24).
  double bus_in_node = 479.7e9, bus_between_nodes = 330.9e9;
};

// What NCCL's own model (src/graph/tuning.cc as of June 2026; NVLink, Hopper) takes into account when it chooses.
// Seconds; `share` is of the bus bandwidth, `most` a limit in bytes/s in one node, in two and in more.
struct Protocol {
  double base, hop, net_hop, overhead;
  double share_in_node, share;
  std::array<double, 3> most;
};
inline constexpr double no_limit = 1e15;
inline constexpr std::array<double, 3> low_latency_most{141e9, 45e9, 35e9}, unlimited{no_limit, no_limit, no_limit};
// LL, LL128, Simple.
inline constexpr std::array<Protocol, 3> tree_protocols{{
    {6.8e-6, 0.6e-6, 5.0e-6, 0, 0.92 / 3.8, 0.92 / 3.8, low_latency_most},
    {14.0e-6, 1.25e-6, 8.5e-6, 0, 0.92 * 7 / 9, 0.92 * 120 / 128, unlimited},
    {8.4e-6, 4.0e-6, 14.0e-6, 0, 0.92, 0.92, unlimited},
}};
inline constexpr std::array<Protocol, 3> ring_protocols{{
    {6.6e-6, 0.6e-6, 2.7e-6, 1e-6, 0.5, 0.5, low_latency_most},
    {14.0e-6, 1.9e-6, 4.0e-6, 1e-6, 0.92, 0.92, unlimited},
    {8.4e-6, 3.4e-6, 14.0e-6, 3e-6, 1, 1, unlimited},
}};

// Every collective takes the fastest of ring and tree (all_reduce alone) in each protocol.
class NcclNetwork {
 public:
  NcclNetwork(const Cluster& cluster, int ranks)
      : ranks_(ranks),
        in_node_((std::min)(ranks, cluster.gpus_per_node)),
        nodes_(static_cast<int>(ts::divide_up(ranks, cluster.gpus_per_node))),
        bus_(nodes_ == 1 ? cluster.bus_in_node : cluster.bus_between_nodes) {}

  // Seconds that a collective takes when all ranks come at once.
  [[nodiscard]] double seconds(const Collective& call) const {
    if (ranks_ == 1) return 0;
    const auto bytes = static_cast<double>(call.bytes());
    const int rounds = call.operation == comm::Operation::all_reduce ? 2 : 1;
    double best = ring_protocols.back().base + no_limit;
    for (const Protocol& protocol : ring_protocols) best = (std::min)(best, ring(protocol, rounds, bytes));
    if (rounds == 2)
      for (const Protocol& protocol : tree_protocols) best = (std::min)(best, tree(protocol, bytes));
    return best;
  }
  // A hop of the ring that carries large messages, on average over its hops.
  [[nodiscard]] double mean_hop() const {
    return ranks_ == 1 ? 0 : ring_latency(ring_protocols.back(), 1) / (ranks_ - 1);
  }
  [[nodiscard]] double bus_bandwidth() const { return bus_; }

 private:
  [[nodiscard]] double bandwidth(const Protocol& protocol) const {
    const double share = nodes_ == 1 ? protocol.share_in_node : protocol.share;
    return (std::min)(bus_ * share, protocol.most[static_cast<std::size_t>((std::min)(nodes_, 3) - 1)]);
  }
  [[nodiscard]] double ring_latency(const Protocol& protocol, int rounds) const {
    const double hop = nodes_ == 1 ? protocol.hop : (std::max)(protocol.hop, protocol.overhead);
    return rounds * ((ranks_ - nodes_) * hop + (nodes_ - 1) * protocol.net_hop);
  }
  [[nodiscard]] double ring(const Protocol& protocol, int rounds, double bytes) const {
    return protocol.base + ring_latency(protocol, rounds) +
           rounds * bytes * (ranks_ - 1) / ranks_ / bandwidth(protocol);
  }
  [[nodiscard]] double tree(const Protocol& protocol, double bytes) const {
    const int depth = static_cast<int>(std::bit_width(static_cast<unsigned>(nodes_))) - 1;
    return protocol.base + 2 * ((in_node_ - 1) * protocol.hop + depth * protocol.net_hop) +
           2 * bytes / bandwidth(protocol);
  }

  int ranks_, in_node_, nodes_;
  double bus_;
};

// One ring through equal links for everything: what a simulator can be asked to do too.
struct RingNetwork {
  int ranks;
  double hop, bandwidth;  // seconds, bytes/s

  [[nodiscard]] double seconds(const Collective& call) const {
    const int rounds = call.operation == comm::Operation::all_reduce ? 2 : 1;
    return rounds * (ranks - 1) * (hop + static_cast<double>(call.bytes()) / ranks / bandwidth);
  }
};

// --- Time of a step ---

// Seconds. What is hidden behind computation is in the totals, not in the exposed ones.
struct StepTime {
  double compute = 0, averages = 0, batch_norm = 0, keys = 0, keys_exposed = 0, gradients = 0, gradients_exposed = 0,
         control = 0, optimizer = 0, parameters = 0;

  [[nodiscard]] double total() const {
    return compute + averages + batch_norm + keys_exposed + gradients_exposed + control + optimizer + parameters;
  }
  [[nodiscard]] double efficiency() const { return compute / total(); }
};

// Of a step whose buckets become final at `ready` and take `seconds` each on one lane that keeps their order: how long
// after `end` the last one is done.
[[nodiscard]] inline double exposed(const std::vector<double>& ready, const std::vector<double>& seconds, double end) {
  double free = 0;
  for (std::size_t i = 0; i < ready.size(); ++i) free = (std::max)(free, ready[i]) + seconds[i];
  return (std::max)(0.0, free - end);
}

// Bytes for each scalar that AdamW moves: gradient, weight and two moments read, the last three written, and the bf16
// copy; and for the teacher: student and teacher read, teacher and copy written.
inline constexpr double adamw_bytes = 4 * 4 + 3 * 4 + 2, average_bytes = 2 * 4 + 4 + 2;

template <class Network>
[[nodiscard]] StepTime step_time(const Model& model, const Plan& plan, const Cluster& cluster, const Network& network) {
  const auto images = static_cast<double>(plan.images_per_rank() * model.views);
  const auto forward = [&](std::size_t stage) {
    return images * 2 * model.stages[stage].multiply_adds / (cluster.flops * cluster.share);
  };
  double pass = 0;
  for (std::size_t stage = 0; stage < model.stages.size(); ++stage) pass += forward(stage);

  StepTime time;
  time.compute = 4 * pass;  // teacher, student, and twice that backward
  std::vector<double> sums;
  for (const Collective& call : collectives(model, plan)) {
    const double seconds = network.seconds(call);
    switch (call.part) {
      case Part::averages:
        time.averages += seconds;
        break;
      case Part::batch_norm:
        time.batch_norm += seconds;
        break;
      case Part::keys:
        time.keys += seconds;
        break;
      case Part::control:
        time.control += seconds;
        break;
      case Part::parameters:
        time.parameters += seconds;
        break;
      case Part::gradients:
        time.gradients += seconds;
        sums.push_back(seconds);
        break;
    }
  }
  time.keys_exposed = (std::max)(0.0, time.keys - pass);

  // From the start of the blocks' backward, that is behind the heads and their BatchNorms.
  std::vector<double> ready;
  double now = 0;
  std::size_t stage = model.stages.size() - 1;
  for (const Bucket& bucket : buckets(model, plan.bucket_bytes)) {
    for (; stage > bucket.stage; --stage) now += 2 * forward(stage - 1);
    ready.push_back(now);
  }
  time.gradients_exposed = exposed(ready, sums, now);

  const double parts = plan.zero ? plan.ranks : 1;
  time.optimizer =
      (adamw_bytes * static_cast<double>(model.trained) + average_bytes * static_cast<double>(model.teacher)) / parts /
      cluster.memory;
  return time;
}

// --- What ranks on hosts send ---

// As comm::Mpi does it. An all_reduce for which a rank receives at most `whole_bytes` is one exchange of whole vectors;
// any other one is a reduce_scatter and an all_gather of parts in multiples of `grain` elements.
struct HostExchange {
  index whole_bytes = 1 << 16, grain = 64, message_bytes = index{8} << 20;
};

// That one rank sends in one call.
struct Traffic {
  std::int64_t messages = 0, bytes = 0;
};

// Where all ranks' parts of a call's buffer lie.
[[nodiscard]] inline std::vector<index> cuts_of(const Collective& call, int ranks, const HostExchange& exchange = {}) {
  const index multiple = call.part == Part::keys                         ? 1
                         : call.operation == comm::Operation::all_reduce ? exchange.grain
                                                                         : ts::entry_alignment;
  std::vector<index> displacements;
  for (int rank = 0; rank <= ranks; ++rank)
    displacements.push_back(comm::even_displacement(call.count, ranks, rank, multiple));
  return displacements;
}

// By direct exchange every rank sends each other one what is that one's to sum, and what is its own to all others.
[[nodiscard]] inline Traffic sent(const Collective& call, int ranks, int rank, const HostExchange& exchange = {}) {
  using comm::Operation;
  Traffic total;
  const auto send = [&](index elements) {
    const index bytes = elements * bytes_of(call.type);
    total.bytes += bytes;
    total.messages += ts::divide_up(bytes, exchange.message_bytes);
  };
  const bool whole = call.operation == Operation::all_reduce && call.bytes() * (ranks - 1) <= exchange.whole_bytes;
  const std::vector<index> displacements = cuts_of(call, ranks, exchange);
  const auto part = [&](int r) {
    return displacements[static_cast<std::size_t>(r) + 1] - displacements[static_cast<std::size_t>(r)];
  };
  for (int other = 0; other < ranks; ++other) {
    if (other == rank) continue;
    if (whole) {
      send(call.count);
      continue;
    }
    if (call.operation != Operation::all_gather) send(part(other));
    if (call.operation != Operation::reduce_scatter) send(part(rank));
  }
  return total;
}

// The fewest bytes a rank must send so that all have their results, on average over the ranks.
[[nodiscard]] inline double fewest_bytes(const Collective& call, int ranks) {
  const int rounds = call.operation == comm::Operation::all_reduce ? 2 : 1;
  return rounds * static_cast<double>(call.bytes()) * (ranks - 1) / ranks;
}

// What comm::Recorded counts of a step: calls, and bytes of the buffers that all ranks work on.
struct Handed {
  std::int64_t calls = 0, bytes = 0;
};
[[nodiscard]] inline Handed handed_in(const std::vector<Collective>& calls, comm::Operation operation) {
  Handed total;
  for (const Collective& call : calls)
    if (call.operation == operation) {
      ++total.calls;
      total.bytes += call.bytes();
    }
  return total;
}

}  // namespace bench
