#include "tessera/objectives/mae.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/mae.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

class DeviceMae : public DeviceTest<float> {};

TEST_F(DeviceMae, EightStepsInFloat) {
  cuda::Backend<float> backend;
  check_mae(backend);
}

TEST_F(DeviceMae, RawPixels) {
  cuda::Backend<float> backend;
  check_raw_mae(backend);
}

// The device draws the host's masks, anew in every replay of the recorded step.
TEST_F(DeviceMae, TrainsAsTheHostDoes) {
  cuda::Backend<float> device;
  cuda::Backend<bf16> low;
  cpu::Backend<double> host(1);
  const auto expected = mae_losses(host), in_float = mae_losses(device), in_bf16 = mae_losses(low);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    EXPECT_NEAR(in_float[t], expected[t], 1e-4) << t;
    EXPECT_NEAR(in_bf16[t], expected[t], 3e-2) << t;
  }
}

}  // namespace
}  // namespace tessera::test
