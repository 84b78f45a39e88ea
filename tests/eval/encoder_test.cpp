#include "tessera/eval/encoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "support/run.hpp"
#include "support/training.hpp"
#include "tessera/data/array.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/features.hpp"

namespace tessera::test {
namespace {

using Model = VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2>;
using MoCo = objectives::MoCoV3<Model, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
using EncoderOfModel = eval::Encoder<Model>;

const data::Normalization grey{{0.3f, 0.3f, 0.3f}, {0.5f, 0.5f, 0.5f}};

// A checkpoint of two steps, and the trainer that wrote it.
class EncoderTest : public testing::Test {
 protected:
  EncoderTest() {
    std::filesystem::create_directories(folder);
    std::vector<float> crops(static_cast<std::size_t>(2 * trainer.batch() * Model::in));
    Random random(3, Purpose::test, 0, 0);
    for (float& value : crops) value = random.uniform(-1, 1);
    for (int i = 0; i < 2; ++i)
      trainer.step(batch_of<MoCo>(static_cast<const float*>(crops.data()), trainer.batch()), {.learning_rate = 1e-2});
    save_checkpoint(checkpoint, trainer, {{"normalization", data::to_text(grey)}});
  }
  ~EncoderTest() override { std::filesystem::remove_all(folder); }

  [[nodiscard]] std::vector<float> expected() { return features_of(trainer, images, grey).values; }
  [[nodiscard]] static std::vector<float> values(const xt::xtensor<float, 2>& features) {
    return {features.begin(), features.end()};
  }
  // The data set as an array.
  [[nodiscard]] xt::xtensor<std::uint8_t, 4> array() const {
    const auto count = static_cast<std::size_t>(images.size());
    xt::xtensor<std::uint8_t, 4> pixels({count, std::size_t{20}, std::size_t{17}, std::size_t{1}});
    data::Image unused;
    for (int i = 0; i < images.size(); ++i) {
      const auto image = images.decode(i, unused);
      std::copy_n(image.pixels, image.size(), pixels.data() + static_cast<std::size_t>(i) * image.size());
    }
    return pixels;
  }
  // Writes the encoder's tensors with `prefix` in front of their names, but that called `left_out`, and no metadata.
  [[nodiscard]] std::filesystem::path bare(const std::string& prefix, const std::string& left_out = "") {
    const io::Safetensors from(checkpoint);
    std::vector<std::vector<float>> values;
    std::vector<io::TensorToWrite> tensors;
    values.reserve(Layout<Model>::entries.size());
    for (const Entry& entry : Layout<Model>::entries) {
      const std::string name(entry.name.view());
      if (name == left_out) continue;
      auto& of_tensor = values.emplace_back(static_cast<std::size_t>(entry.size()));
      from.read_into<float>("base_encoder." + name, detail::extents(entry.shape), std::span<float>(of_tensor));
      tensors.push_back(
          {prefix + name, io::Dtype::f32, detail::extents(entry.shape), std::as_bytes(std::span(of_tensor))});
    }
    const auto path = folder / "bare.safetensors";
    io::write_safetensors(path, tensors, {});
    return path;
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("tessera_encoder_{}", ::getpid());
  const std::filesystem::path checkpoint = folder / "checkpoint.safetensors";
  const data::IdxDataset images = noise(45, 20, 17);
  cpu::Backend<float> backend{2};
  comm::Serial alone;
  TrainerOn<MoCo, cpu::Backend<float>> trainer{backend, alone, optim::AdamW{}, {.batch = 6, .seed = 11}};
};

TEST_F(EncoderTest, HasTheTrainersFeaturesToTheBit) {
  const auto features = expected();
  for (const int threads : {1, 3}) {
    const EncoderOfModel encoder(checkpoint, {.threads = threads});
    EXPECT_EQ(values(encoder(images)), features) << threads << " threads";
  }
}

TEST_F(EncoderTest, TakesAndGivesArrays) {
  const EncoderOfModel encoder(checkpoint);
  static_assert(EncoderOfModel::width == 24);
  const xt::xtensor<float, 2> features = encoder(array());
  EXPECT_EQ(features.shape(0), 45u);
  EXPECT_EQ(features.shape(1), 24u);
  EXPECT_EQ(values(features), expected());
  const xt::xtensor<std::uint8_t, 4> none({std::size_t{0}, std::size_t{20}, std::size_t{17}, std::size_t{1}});
  EXPECT_EQ(encoder(none).shape(0), 0u);
}

TEST_F(EncoderTest, RefusesArraysThatAreNoImages) {
  const EncoderOfModel encoder(checkpoint);
  const xt::xtensor<std::uint8_t, 4> colour({std::size_t{2}, std::size_t{20}, std::size_t{17}, std::size_t{3}});
  EXPECT_THAT([&] { static_cast<void>(encoder(colour)); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("image 0 has 20 x 17 pixels of 3 channel(s)")));
  EXPECT_EQ(values(encoder(images)), expected());  // and goes on
}

// An array of 5 channels from the loader over a step and a checkpoint to features.
TEST_F(EncoderTest, EncodesAnyNumberOfChannels) {
  using FiveChannels = VisionTransformer<image<14, 5>, patch<7>, 24, 1, 2>;
  using Objective = objectives::MoCoV3<FiveChannels, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
  auto pixels = xt::xtensor<std::uint8_t, 4>::from_shape({12, 20, 17, 5});
  Random random(4, Purpose::test, 0, 0);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(random.below(256));
  const data::ArrayDataset five(pixels);
  const data::Normalization normalization = data::measure_normalization(five);
  data::LoaderOptions options{.batch = 6, .views = {}, .normalization = normalization};
  for (const auto& view : Objective::augmentation()) options.views.push_back(view.without_colors());
  data::Loader loader(five, data::reads<Objective>(), options);
  TrainerOn<Objective, cpu::Backend<float>> train(backend, alone, optim::AdamW{}, {.batch = 6, .seed = 1});
  const double loss = train.step(loader.next().batch(), {.learning_rate = 1e-2});
  EXPECT_TRUE(loss > 0 && std::isfinite(loss)) << loss;
  save_checkpoint(checkpoint, train, {{"normalization", data::to_text(normalization)}});
  const eval::Encoder<FiveChannels> encoder(checkpoint);
  EXPECT_EQ(encoder.normalization().channels, 5);
  EXPECT_EQ(values(encoder(pixels)), features_of(train, five, normalization).values);
  EXPECT_THAT([&] { eval::Encoder<FiveChannels> other(checkpoint, {.normalization = data::imagenet_normalization}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("has 3 channels, but images of 5 are normalised")));
}

TEST_F(EncoderTest, MayBeCalledFromManyThreads) {
  const EncoderOfModel encoder(checkpoint, {.threads = 2});
  const auto features = expected();
  std::vector<std::vector<float>> found(4);
  {
    std::vector<std::jthread> threads;
    for (auto& one : found)
      threads.emplace_back([&] {
        for (int i = 0; i < 5; ++i) one = values(encoder(images));
      });
  }
  for (const auto& one : found) EXPECT_EQ(one, features);
}

TEST_F(EncoderTest, ReadsTheRunsNormalization) {
  EXPECT_EQ(EncoderOfModel(checkpoint).normalization().mean, grey.mean);
  EXPECT_EQ(EncoderOfModel(bare("")).normalization().mean, data::imagenet_normalization.mean);
  const EncoderOfModel other(checkpoint, {.normalization = data::imagenet_normalization});
  EXPECT_EQ(other.normalization().mean, data::imagenet_normalization.mean);
  EXPECT_NE(values(other(images)), expected());
}

// In files that say nothing of themselves, under the usual prefixes or the one that is named.
TEST_F(EncoderTest, FindsThePrefix) {
  const auto features = expected();
  const int at_once = static_cast<int>(trainer.images_at_once());
  for (const char* prefix : {"", "base_encoder.", "module.base_encoder.", "module.", "backbone."}) {
    const EncoderOfModel encoder(bare(prefix), {.batch = at_once, .normalization = grey});
    EXPECT_EQ(values(encoder(images)), features) << prefix;
  }
  const auto unusual = bare("my.own.");
  EXPECT_EQ(values(EncoderOfModel(unusual, {.batch = at_once, .prefix = "my.own.", .normalization = grey})(images)),
            features);
  EXPECT_THAT([&] { EncoderOfModel encoder(unusual); },
              testing::ThrowsMessage<Error>(
                  testing::AllOf(testing::HasSubstr(unusual.string()), testing::HasSubstr("no tensor 'cls_token'"))));
}

TEST_F(EncoderTest, NamesTheTensorThatIsMissing) {
  const auto path = bare("", "blocks.1.mlp.fc1.bias");
  EXPECT_THAT([&] { EncoderOfModel encoder(path); },
              testing::ThrowsMessage<Error>(
                  testing::AllOf(testing::HasSubstr(path.string()), testing::HasSubstr("blocks.1.mlp.fc1.bias"))));
}

TEST_F(EncoderTest, NamesTheTensorOfAnotherShape) {
  using Wider = VisionTransformer<image<14, 1>, patch<7>, 32, 2, 2>;
  EXPECT_THAT([&] { eval::Encoder<Wider> encoder(checkpoint); },
              testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr(checkpoint.string()),
                                                           testing::HasSubstr("base_encoder.cls_token"))));
}

}  // namespace
}  // namespace tessera::test
