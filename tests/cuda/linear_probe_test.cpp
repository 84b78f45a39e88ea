#include "tessera/objectives/linear_probe.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/probe.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

class DeviceLinearProbe : public DeviceTest<float> {};

TEST_F(DeviceLinearProbe, TrainsAsTheHostDoes) {
  cpu::Backend<double> host(1);
  cuda::Backend<float> device;
  cuda::Backend<bf16> low;
  const auto expected = probe_losses(host), in_float = probe_losses(device), in_bf16 = probe_losses(low);
  ASSERT_EQ(expected.size(), 15u);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(in_float[i], expected[i], 1e-4) << i;
    EXPECT_NEAR(in_bf16[i], expected[i], 0.1) << i;
  }
}

}  // namespace
}  // namespace tessera::test
