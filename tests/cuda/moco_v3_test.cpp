#include "tessera/objectives/moco_v3.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/noisy_views.hpp"
#include "support/parity.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

using FloatBackend = cuda::Backend<float>;
using LowBackend = cuda::Backend<bf16>;

class DeviceMoCoV3 : public DeviceTest<float> {};

TEST_F(DeviceMoCoV3, OneStepInFloat) {
  FloatBackend backend;
  check_step<Learned>(backend, "moco_step");
}

TEST_F(DeviceMoCoV3, OneStepInFloatWithFrozenPatches) {
  FloatBackend backend;
  check_step<Frozen>(backend, "moco_step_frozen_patch");
}

TEST_F(DeviceMoCoV3, Bf16HasTheLossAndTheGradientOfFloat) {
  check_bf16_against_float<LowBackend>();
}

// With this seed no input of a ReLU is so near to 0 that rounding decides its side. With others losses differ by up to
// 0.05 within 100 steps, on the processor alone too.
TEST_F(DeviceMoCoV3, TrainsAsTheProcessorDoes) {
  constexpr std::uint64_t seed = 11;
  Training<Tiny, cpu::Backend<float>, 16> host(seed);
  Training<Tiny, FloatBackend, 16> device(seed);
  double first = 0, last = 0;
  for (std::uint32_t i = 0; i < 100; ++i) {
    const double expected = host.step(i % 10, 3e-4);
    last = device.step(i % 10, 3e-4);
    if (i == 0) first = last;
    EXPECT_NEAR(last, expected, 1e-4) << "step " << i;
  }
  EXPECT_LT(last, first - 0.3);
}

TEST_F(DeviceMoCoV3, Bf16StaysCloseToTheReferencesLoss) {
  check_bf16_against_the_reference<LowBackend>(2e-2);
}

}  // namespace
}  // namespace tessera::test
