#include "tessera/train/pretrained.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/training.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/linear_probe.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/objectives/supervised.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<14, 1>, patch<7>, 16, 2, 2>;
using Wide = VisionTransformer<image<14, 1>, patch<7>, 32, 2, 2>;
using MoCo = objectives::MoCoV3<Encoder, heads::Mlp<2, 12, 8>, heads::Mlp<2, 12, 8>>;
using Probe = objectives::LinearProbe<Encoder, 3, 2>;
using Supervised = objectives::Supervised<Encoder, 3>;
using Backend = cpu::Backend<float>;

class Pretrained : public testing::Test {
 protected:
  template <class Objective>
  void save_new(std::uint64_t seed) {
    Backend backend(1);
    TrainerOn<Objective, Backend> trainer(backend, alone_, optim::Sgd{}, {.batch = 2, .seed = seed});
    save_checkpoint(path_, trainer, {{"encoder", std::string(Objective::encoder_name)}});
    encoder_ = encoder_of(trainer);
  }
  template <class Trainer>
  static std::vector<float> encoder_of(const Trainer& trainer) {
    if constexpr (std::tuple_size_v < typename Trainer::Networks::FrozenSets >> 0) {
      return frozen_of(trainer);
    } else {
      const auto all = weights_of(trainer);  // the encoder comes first
      return {all.begin(), all.begin() + Layout<typename Trainer::Encoder>::parameters};
    }
  }
  template <class Trainer>
  static std::vector<float> others_of(const Trainer& trainer) {
    const auto all = weights_of(trainer);
    const bool apart = std::tuple_size_v<typename Trainer::Networks::FrozenSets> > 0;
    return {all.begin() + (apart ? 0 : Layout<typename Trainer::Encoder>::parameters), all.end()};
  }
  template <class Objective>
  void expect_loaded() {
    Backend backend(1);
    TrainerOn<Objective, Backend> trainer(backend, alone_, optim::Sgd{}, {.batch = 2, .seed = 9});
    const auto before = others_of(trainer);
    EXPECT_NE(encoder_of(trainer), encoder_);
    load_encoder(path_, trainer);
    EXPECT_EQ(encoder_of(trainer), encoder_);
    EXPECT_EQ(others_of(trainer), before) << "something beside the encoder changed";
    EXPECT_EQ(trainer.steps(), 0);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  comm::Serial alone_;
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("tessera_pretrained_" + std::to_string(::getpid()) + ".safetensors");
  std::vector<float> encoder_;
};

TEST_F(Pretrained, EncoderOfMoCoStartsOthers) {
  save_new<MoCo>(1);
  expect_loaded<Probe>();
  expect_loaded<Supervised>();
}

TEST_F(Pretrained, EncoderWithoutPrefixStartsOthers) {
  save_new<Supervised>(2);
  expect_loaded<Probe>();
  expect_loaded<MoCo>();
}

TEST_F(Pretrained, AllRanksHaveIt) {
  save_new<MoCo>(1);
  comm::run_threads(2, [&](comm::Threads& communicator) {
    Backend backend(1);
    TrainerOn<Probe, Backend, comm::Threads> trainer(backend, communicator, optim::Sgd{}, {.batch = 2, .seed = 9});
    load_encoder(path_, trainer);
    EXPECT_EQ(encoder_of(trainer), encoder_);
  });
}

TEST_F(Pretrained, AnotherEncoderIsRefusedByName) {
  save_new<MoCo>(1);
  Backend backend(1);
  TrainerOn<objectives::Supervised<Wide, 3>, Backend> trainer(backend, alone_, optim::Sgd{}, {.batch = 2});
  const auto before = weights_of(trainer);
  try {
    load_encoder(path_, trainer);
    FAIL() << "a narrower encoder was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cls_token"), std::string::npos) << error.what();
  }
  EXPECT_EQ(weights_of(trainer), before);
}

}  // namespace
}  // namespace tessera::test
