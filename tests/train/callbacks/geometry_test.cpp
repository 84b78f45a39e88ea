#include "tessera/train/callbacks/geometry.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/run.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/train/callbacks/monitors.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2, 4>;
using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;

// A data set without labels.
struct Unlabelled {
  const data::IdxDataset& images;
  [[nodiscard]] int size() const { return images.size(); }
  [[nodiscard]] data::ImageView decode(int i, data::Image& scratch) const { return images.decode(i, scratch); }
};

constexpr data::ViewAugmentation view = data::ViewAugmentation::crop_and_flip(0.2);

// Two epochs of five steps over 40 pictures on one rank or more.
class Measured {
 public:
  explicit Measured(const data::IdxDataset& images) : images_(images) {
    recipe_.batch_size = 8;
    recipe_.epochs = 2;
    recipe_.warmup_epochs = 1;
    recipe_.metrics_every = 1000;
    recipe_.out = std::filesystem::temp_directory_path() / fmt::format("tessera_geometry_{}", ::getpid());
    std::filesystem::create_directories(recipe_.out);
  }
  Measured(const Measured&) = delete;
  Measured& operator=(const Measured&) = delete;
  ~Measured() { std::filesystem::remove_all(recipe_.out); }

  // The rows that the monitor which make(report) returns has written.
  template <class Make>
  [[nodiscard]] std::vector<nlohmann::ordered_json> rows(Make&& make, int ranks = 1) {
    comm::run_threads(ranks, [&](comm::Threads& communicator) {
      cpu::Backend<float> backend(1);
      TrainerOn<Objective, cpu::Backend<float>, comm::Threads> trainer(backend, communicator, recipe_.make_optimizer(),
                                                                       {.batch = recipe_.batch_of_rank(ranks)});
      data::LoaderOptions options;
      options.batch = recipe_.batch_of_rank(ranks);
      options.rank = communicator.rank();
      options.ranks = ranks;
      data::HostSource<float, Objective::Reads, data::IdxDataset> source(backend, images_, options);
      Report report(recipe_.metrics(), 0, communicator.rank() == 0);
      auto monitor = make(report);
      Run run(trainer, recipe_, {}, 5);
      EXPECT_TRUE(run(source, report, monitor));
      const FeatureSet features = features_of(trainer, images_, data::imagenet_normalization);
      if (communicator.rank() == 0) last_ = features;
    });
    auto rows = io::read_metrics(recipe_.metrics()).rows;
    std::filesystem::remove(recipe_.metrics());
    return rows;
  }
  // Features of the pictures behind the last step.
  [[nodiscard]] const FeatureSet& last() const { return last_; }

 private:
  const data::IdxDataset& images_;
  Recipe recipe_;
  FeatureSet last_{{}, {}, 0, 0};
};

// A run without labels tells the geometry of its features before the first step and at the end of each epoch.
TEST(GeometryMonitor, NeedsNoLabels) {
  ::testing::internal::CaptureStdout();
  const data::IdxDataset images = noise(40, 14, 14);
  const Unlabelled unlabelled{images};
  const auto monitor = [&](Report& report) {
    return GeometryMonitor<Unlabelled>(report, unlabelled, data::imagenet_normalization, view, 1);
  };
  Measured measured(images);
  const auto rows = measured.rows(monitor);
  const eval::Features<float> z = measured.last().view();
  ASSERT_EQ(rows.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(rows[i].at("step"), 5 * i);
  ThreadPool pool(1);
  EXPECT_DOUBLE_EQ(rows[2].at("effective_rank"), eval::effective_rank(z));
  EXPECT_DOUBLE_EQ(rows[2].at("feature_deviation"), eval::mean_deviation(z));
  EXPECT_DOUBLE_EQ(rows[2].at("uniformity"), eval::uniformity(pool, z));
  EXPECT_GT(rows[2].at("alignment"), 0.0);
  EXPECT_FALSE(rows[2].contains("collapsed"));
  EXPECT_EQ(measured.rows(monitor), rows) << "a second run has other rows";

  const auto together = measured.rows(monitor, 4);
  ASSERT_EQ(together.size(), 3u);
  for (const char* key : {"effective_rank", "feature_deviation", "uniformity", "alignment"}) {
    const double alone = rows[0].at(key), four = together[0].at(key);
    EXPECT_NEAR(four, alone, 1e-5 * std::abs(alone)) << key << " on 4 ranks";
  }
  const std::string output = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(output, ::testing::HasSubstr("epoch   2.00  effective rank "));
  EXPECT_THAT(output, ::testing::Not(::testing::HasSubstr("collapsed")));
}

// With labels the k-NN accuracy comes beside it; both have the bits that they have alone.
TEST(Monitors, TellWhatTheirPartsTellAlone) {
  ::testing::internal::CaptureStdout();
  const data::IdxDataset images = noise(40, 14, 14);
  Measured measured(images);
  using Images = data::IdxDataset;
  const auto geometry = measured.rows(
      [&](Report& report) { return GeometryMonitor<Images>(report, images, data::imagenet_normalization, view, 1); });
  const auto knn = measured.rows(
      [&](Report& report) { return KnnMonitor<Images>(report, images, images, data::imagenet_normalization, 1); });
  const auto monitors = [&](bool labelled) {
    return measured.rows([&](Report& report) {
      return Monitors<Images>(report, images, images, labelled, data::imagenet_normalization, view, 1);
    });
  };
  EXPECT_EQ(monitors(false), geometry);
  const auto both = monitors(true);
  ASSERT_EQ(both.size(), 6u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(both[2 * i], geometry[i]);
    EXPECT_EQ(both[2 * i + 1], knn[i]);
  }
  ::testing::internal::GetCapturedStdout();
}

// Pictures that are all the same have the same features, which is what collapsed features look like.
TEST(GeometryMonitor, SaysOnceThatFeaturesHaveCollapsed) {
  ::testing::internal::CaptureStdout();
  const data::IdxDataset images(14, 14, std::vector<std::uint8_t>(40 * 14 * 14, 90), std::vector<std::uint8_t>(40));
  Measured measured(images);
  const auto rows = measured.rows([&](Report& report) {
    return GeometryMonitor<data::IdxDataset>(report, images, data::imagenet_normalization, view, 1);
  });
  ASSERT_EQ(rows.size(), 3u);
  for (const auto& row : rows) EXPECT_EQ(row.at("collapsed"), 1);
  const std::string output = ::testing::internal::GetCapturedStdout(), sentence = "the features have collapsed: ";
  const std::size_t first = output.find(sentence);
  ASSERT_NE(first, std::string::npos) << output;
  EXPECT_THAT(output.substr(first), ::testing::HasSubstr("effective rank 1.0 of 24"));
  EXPECT_EQ(output.find(sentence, first + 1), std::string::npos) << output;
}

TEST(GeometryMonitor, LeavesASinglePictureAlone) {
  ::testing::internal::CaptureStdout();
  const data::IdxDataset images = noise(40, 14, 14), one = noise(1, 14, 14);
  Measured measured(images);
  EXPECT_THAT(measured.rows([&](Report& report) {
    return GeometryMonitor<data::IdxDataset>(report, one, data::imagenet_normalization, view, 1);
  }),
              ::testing::IsEmpty());
  ::testing::internal::GetCapturedStdout();
}

}  // namespace
}  // namespace tessera::test
