#include "tessera/train/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/training.hpp"
#include "tessera/core/random.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<8, 1>, patch<4>, 8, 1, 2, 2>;
using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 8, 4>, heads::Mlp<2, 8, 4>>;
using Backend = cpu::Backend<float>;

class CheckpointTest : public testing::Test {
 protected:
  ~CheckpointTest() override { std::filesystem::remove(path); }

  void write(const std::string& bytes) const {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  // The values of all tensors.
  [[nodiscard]] std::vector<float> state() {
    std::vector<float> all;
    trainer.with_tensors([&](const auto& tensors) {
      for (const auto& tensor : tensors) all.insert(all.end(), tensor.data, tensor.data + tensor.shape.size());
    });
    return all;
  }

  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("tessera_checkpoint_" + std::to_string(::getpid()));
  const Metadata identity{{"seed", "7"}, {"images", "120"}};
  Backend backend{1};
  comm::Serial alone;
  TrainerOn<Objective, Backend> trainer{backend, alone, optim::AdamW{}, {.batch = 4, .seed = 7}};
};

TEST_F(CheckpointTest, DamageIsFoundBeforeAnythingChanges) {
  save_checkpoint(path, trainer, identity);
  const std::string whole = io::read_file(path, 1 << 20);
  const auto before = state();
  const auto expect_refused = [&](const std::string& bytes, const std::string& damage) {
    write(bytes);
    EXPECT_THAT([&] { load_checkpoint(path, trainer, identity); },
                testing::ThrowsMessage<Error>(testing::HasSubstr(path.string())))
        << damage;
  };
  Random random(1, Purpose::test, 0, 0);
  const auto size = static_cast<std::uint32_t>(whole.size());
  for (int flip = 0; flip < 2000; ++flip) {
    const std::uint32_t at = random.below(size), bit = random.below(8);
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
    expect_refused(flipped, fmt::format("bit {} of byte {} is flipped", bit, at));
  }
  for (std::size_t page = 0; page < size; page += 512) {
    std::string zeroed = whole;
    const std::size_t end = smaller(page + 512, whole.size());
    std::fill(zeroed.begin() + static_cast<std::ptrdiff_t>(page), zeroed.begin() + static_cast<std::ptrdiff_t>(end),
              '\0');
    if (zeroed != whole) expect_refused(zeroed, fmt::format("bytes {} to {} are zeros", page, end));
  }
  for (std::size_t length = 0; length < size; length += 97)
    expect_refused(whole.substr(0, length), fmt::format("{} bytes are left", length));
  EXPECT_EQ(state(), before);
  write(whole);
  load_checkpoint(path, trainer, identity);
  EXPECT_EQ(state(), before);
}

// Other images, and files of before images had fingerprints.
TEST_F(CheckpointTest, KnowsItsData) {
  Metadata now = identity;
  save_checkpoint(path, trainer, now);
  now["train_data"] = "1";
  load_checkpoint(path, trainer, now);
  save_checkpoint(path, trainer, now);
  now["train_data"] = "2";
  const auto refusal = [&] {
    try {
      load_checkpoint(path, trainer, now);
    } catch (const Error& problem) {
      return std::string(problem.what());
    }
    return std::string();
  };
  EXPECT_THAT(refusal(),
              testing::HasSubstr("train_data = 1, but this run has 2: number, order, names, sizes or labels"));
  now["train_data"] = "1";
  now["verify_data"] = "3";
  EXPECT_THAT(refusal(), testing::HasSubstr("was written without verify_data, but this run has verify_data = 3"));
}

}  // namespace
}  // namespace tessera::test
