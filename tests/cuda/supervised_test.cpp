#include "tessera/objectives/supervised.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/supervised.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

constexpr int classes = 7;
using Encoder = StudyEncoder<position::Learned>;
class DeviceSupervised : public DeviceTest<float> {};

TEST_F(DeviceSupervised, EightStepsInFloat) {
  cuda::Backend<float> backend;
  check_supervised<objectives::Supervised<Encoder, classes, GivenDraws>>(backend, "study_supervised");
}

TEST_F(DeviceSupervised, EightStepsOfTheMeanOverPatchesInFloat) {
  using Pooled = StudyEncoder<position::Learned, pooling::MeanPatchesNorm>;
  cuda::Backend<float> backend;
  check_supervised<objectives::Supervised<Pooled, classes, GivenDraws>>(backend, "study_supervised_gap");
}

TEST_F(DeviceSupervised, ClippedGradientInFloat) {
  cuda::Backend<float> backend;
  check_clipped<objectives::Supervised<Encoder, classes, GivenDraws>>(backend, "study_supervised");
}

// The device draws what the host draws, anew in every replay of the recorded step.
TEST_F(DeviceSupervised, TrainsAsTheHostDoes) {
  cuda::Backend<float> device;
  cuda::Backend<bf16> low;
  cpu::Backend<double> host(1);
  const auto expected = supervised_losses(host), in_float = supervised_losses(device), in_bf16 = supervised_losses(low);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    EXPECT_NEAR(in_float[t], expected[t], 1e-4) << t;
    EXPECT_NEAR(in_bf16[t], expected[t], 0.1) << t;
  }
}

}  // namespace
}  // namespace tessera::test
