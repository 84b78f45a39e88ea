// The model of a distributed step: sizes against the layouts, collectives against the definition of a step, times
// against formulas worked out by hand, and what is sent against a count of messages.
#include "../../bench/scale_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace bench {
namespace {

namespace heads = ts::heads;
namespace objectives = ts::objectives;
namespace vit = ts::vit;
using comm::Operation;
using comm::Type;

using Base = objectives::MoCoV3<vit::Base<>>;
using Tiny = objectives::MoCoV3<vit::Tiny<>, heads::Mlp<3, 512, 128>, heads::Mlp<2, 512, 128>>;

const Model& base() {
  static const Model model = describe<Base>("base");
  return model;
}
const Model& tiny() {
  static const Model model = describe<Tiny>("tiny");
  return model;
}

Plan plan_of(int ranks, index images) {
  Plan plan;
  plan.ranks = ranks;
  plan.images = images;
  return plan;
}

index elements_of(const std::vector<Collective>& calls, Part part) {
  index total = 0;
  for (const Collective& call : calls) total += call.part == part ? call.count : 0;
  return total;
}

TEST(ScaleModel, StagesAreEmbeddingsBlocksAndHeads) {
  ASSERT_EQ(base().stages.size(), 14u);
  EXPECT_EQ(base().stages.front().first, 0);
  const auto offset = [](std::string_view name) {
    for (const ts::Entry& entry : OnlineLayout<Base>::entries)
      if (entry.name.view() == name) return entry.offset;
    return index{-1};
  };
  EXPECT_EQ(base().stages[1].first, offset("base_encoder.blocks.0.norm1.weight"));
  EXPECT_EQ(base().stages[12].first, offset("base_encoder.blocks.11.norm1.weight"));
  EXPECT_EQ(base().stages[13].first, offset("base_encoder.norm.weight"));
  EXPECT_THAT(base().projector, testing::ElementsAre(4096, 4096, 256));
  EXPECT_THAT(base().predictor, testing::ElementsAre(4096, 256));
}

TEST(ScaleModel, CountsTheMultiplyAddsOfTheModel) {
  double total = 0;
  for (const Stage& stage : base().stages) total += stage.multiply_adds;
  const double encoder = 196.0 * 768 * 768 + 12 * (12.0 * 768 * 768 * 197 + 2.0 * 197 * 197 * 768);
  const double heads = 768.0 * 4096 + 4096.0 * 4096 + 4096.0 * 256 + 2 * 256.0 * 4096;
  EXPECT_NEAR(total, encoder + heads, 1);
  EXPECT_NEAR(2 * 8 * total * 1e-12, 0.281, 0.001);  // TFLOP per image and step, as docs/performance-gpu.md has it
}

TEST(ScaleModel, BucketsCoverTheBufferFromItsEndInPiecesOfTheLeastSize) {
  for (const index bytes : {index{1}, index{4096}, index{25} << 20, index{1} << 40})
    for (const Model* model : {&base(), &tiny()}) {
      const auto all = buckets(*model, bytes);
      index last = model->parameters;
      for (const Bucket& bucket : all) {
        EXPECT_EQ(bucket.last, last);
        EXPECT_EQ(bucket.first, model->stages[bucket.stage].first);
        if (bucket.first > 0) {
          EXPECT_GE((bucket.last - bucket.first) * 4, bytes);
        }
        last = bucket.first;
      }
      EXPECT_EQ(last, 0) << "with buckets of " << bytes << " bytes";
    }
  EXPECT_EQ(buckets(base(), 1).size(), base().stages.size());
  EXPECT_EQ(buckets(base(), index{1} << 40).size(), 1u);
}

TEST(ScaleModel, AStepHasThirteenBatchNormsTwoGathersAndOneControl) {
  const auto calls = collectives(base(), plan_of(8, 4096));
  const auto count = [&](Part part) {
    return std::count_if(calls.begin(), calls.end(), [&](const Collective& call) { return call.part == part; });
  };
  EXPECT_EQ(count(Part::batch_norm), 13);
  EXPECT_EQ(count(Part::keys), 2);
  EXPECT_EQ(count(Part::control), 1);
  EXPECT_EQ(count(Part::parameters) + count(Part::averages), 0);
  const index projector = 4096 + 4096 + 256, predictor = 4096 + 256;  // teacher's and student's forward, and backward
  EXPECT_EQ(elements_of(calls, Part::batch_norm), 2 * (2 * (3 * projector + 2 * predictor) + 13));
  EXPECT_EQ(elements_of(calls, Part::keys), 2 * 4096 * 256);
  EXPECT_EQ(elements_of(calls, Part::gradients), OnlineLayout<Base>::parameters);
}

TEST(ScaleModel, ZeroScattersGradientsAndGathersWeightsAndTheTeacher) {
  Plan plan = plan_of(4, 64);
  plan.zero = true;
  plan.activations = Type::float32;
  const auto calls = collectives(tiny(), plan);
  EXPECT_EQ(handed_in(calls, Operation::reduce_scatter).bytes, 4 * OnlineLayout<Tiny>::parameters);
  EXPECT_EQ(elements_of(calls, Part::parameters), OnlineLayout<Tiny>::parameters);
  EXPECT_EQ(elements_of(calls, Part::averages), AverageLayout<Tiny>::parameters);
  EXPECT_EQ(handed_in(calls, Operation::all_gather).bytes,
            4 * (OnlineLayout<Tiny>::parameters + AverageLayout<Tiny>::parameters + 2 * 64 * 128));
  plan.activations = Type::bfloat16;  // masters and the copies that products read
  EXPECT_EQ(elements_of(collectives(tiny(), plan), Part::parameters), 2 * OnlineLayout<Tiny>::parameters);
}

TEST(ScaleModel, RefusesImagesThatRanksCannotShare) {
  EXPECT_THROW(static_cast<void>(collectives(tiny(), plan_of(3, 64))), ts::Error);
  EXPECT_THROW(static_cast<void>(collectives(tiny(), plan_of(8, 4))), ts::Error);
}

Collective all_reduce(index bytes) {
  return {Part::gradients, Operation::all_reduce, Type::int8, bytes};
}

TEST(ScaleModel, SmallSumsTakeNcclsTreeAndLargeOnesTheBusBandwidth) {
  const Cluster cluster;
  EXPECT_NEAR(NcclNetwork(cluster, 8).seconds(all_reduce(0)), 6.6e-6 + 14 * 0.6e-6, 1e-9);  // a node's ring is as short
  // Base, and there and back: 7 hops in a node, log2(nodes) between nodes.
  EXPECT_NEAR(NcclNetwork(cluster, 64).seconds(all_reduce(0)), 45.2e-6, 1e-9);
  EXPECT_NEAR(NcclNetwork(cluster, 1024).seconds(all_reduce(0)), 85.2e-6, 1e-9);
  const index large = index{100} << 30;
  const double bytes = static_cast<double>(large);
  EXPECT_NEAR(NcclNetwork(cluster, 8).seconds(all_reduce(large)) / (2 * 7 / 8.0 * bytes / 479.7e9), 1, 1e-3);
  EXPECT_NEAR(NcclNetwork(cluster, 64).seconds(all_reduce(large)) / (2 * 63 / 64.0 * bytes / 330.9e9), 1, 2e-3);
  EXPECT_EQ(NcclNetwork(cluster, 1).seconds(all_reduce(large)), 0);
}

TEST(ScaleModel, TimesGrowWithBytesAndRanks) {
  const Cluster cluster;
  for (int ranks = 8; ranks <= 1024; ranks *= 2)
    for (index bytes = 1024; bytes < index{1} << 30; bytes *= 2) {
      const NcclNetwork network(cluster, ranks);
      EXPECT_LE(network.seconds(all_reduce(bytes)), network.seconds(all_reduce(2 * bytes)));
      EXPECT_LE(network.seconds(all_reduce(bytes)), NcclNetwork(cluster, 2 * ranks).seconds(all_reduce(bytes)));
    }
}

TEST(ScaleModel, ALaneHidesWhatFitsBehindBackward) {
  EXPECT_DOUBLE_EQ(exposed({0, 1, 2, 3}, {0.5, 0.5, 0.5, 0.5}, 3), 0.5);  // the last one alone
  EXPECT_DOUBLE_EQ(exposed({0, 1, 2, 3}, {2, 2, 2, 2}, 3), 5);            // always busy from 0 on
  EXPECT_DOUBLE_EQ(exposed({0, 3}, {4, 1}, 3), 2);                        // the first one delays the last
  EXPECT_DOUBLE_EQ(exposed({3}, {1}, 3), 1);                              // one bucket hides nothing
  EXPECT_DOUBLE_EQ(exposed({}, {}, 3), 0);
}

TEST(ScaleModel, AStepIsAtLeastItsComputationAndOneRankLosesTheUpdateAlone) {
  const Cluster cluster;
  for (const int ranks : {1, 8, 64, 1024})
    for (const bool zero : {false, true}) {
      Plan plan = plan_of(ranks, 4096);
      plan.zero = zero;
      const StepTime time = step_time(base(), plan, cluster, NcclNetwork(cluster, ranks));
      EXPECT_GT(time.efficiency(), 0);
      EXPECT_LE(time.gradients_exposed, time.gradients);
      EXPECT_NEAR(time.compute * ranks, 2 * 8 * 4096 * 17.58e9 / (989e12 * 0.4), 0.02 * time.compute * ranks);
      if (ranks == 1) {
        EXPECT_DOUBLE_EQ(time.total(), time.compute + time.optimizer);
      }
    }
}

TEST(ScaleModel, OneBucketHidesNothing) {
  const Cluster cluster;
  Plan plan = plan_of(64, 4096);
  plan.bucket_bytes = index{1} << 40;
  const StepTime whole = step_time(base(), plan, cluster, NcclNetwork(cluster, 64));
  EXPECT_DOUBLE_EQ(whole.gradients_exposed, whole.gradients);
  plan.bucket_bytes = index{25} << 20;
  const StepTime cut = step_time(base(), plan, cluster, NcclNetwork(cluster, 64));
  EXPECT_LT(cut.gradients_exposed, 0.2 * whole.gradients_exposed);
}

// Every rank's sends, added up, are what all ranks must receive.
TEST(ScaleModel, SendsWhatOthersMustReceive) {
  for (const int ranks : {1, 2, 3, 4, 7, 8})
    for (const index count : {0, 1, 63, 64, 65, 128, 1000, 10007})
      for (const Operation operation : {Operation::reduce_scatter, Operation::all_gather, Operation::all_reduce})
        for (const index whole_bytes : {index{-1}, index{1} << 40}) {
          const Collective call{Part::gradients, operation, Type::float64, count};
          const bool whole = operation == Operation::all_reduce && whole_bytes > 0;
          index bytes = 0;
          for (int rank = 0; rank < ranks; ++rank) {
            const Traffic one = sent(call, ranks, rank, {whole_bytes, 64, index{1} << 30});
            bytes += one.bytes;
            EXPECT_LE(one.messages, (operation == Operation::all_reduce && !whole ? 2 : 1) * (ranks - 1));
          }
          const index copies = whole ? ranks : operation == Operation::all_reduce ? 2 : 1;
          EXPECT_EQ(bytes, copies * (ranks - 1) * call.bytes())
              << comm::name(operation) << " of " << count << " on " << ranks << " ranks";
          if (!whole) {
            EXPECT_NEAR(static_cast<double>(bytes), ranks * fewest_bytes(call, ranks), 1e-6);
          }
        }
}

TEST(ScaleModel, SendsLongVectorsInSeveralMessages) {
  const Collective call{Part::gradients, Operation::all_gather, Type::float32, 3 * 2048};
  EXPECT_EQ(sent(call, 3, 0, {0, 64, 4096}).messages, 2 * 2);
  EXPECT_EQ(sent(call, 3, 0, {0, 64, 8191}).messages, 2 * 2);
  EXPECT_EQ(sent(call, 3, 0, {0, 64, 8192}).messages, 2);
}

}  // namespace
}  // namespace bench
