#include "tessera/objectives/mae.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/mae.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

using Counted = StudyMae<true, objectives::mae::CounterBased>;
class DeviceMae : public DeviceTest<float> {};

TEST_F(DeviceMae, EightStepsInFloat) {
  cuda::Backend<float> backend;
  check_mae(backend);
}

TEST_F(DeviceMae, RawPixels) {
  cuda::Backend<float> backend;
  check_raw_mae(backend);
}

template <class Backend>
std::vector<double> losses_on(Backend& backend) {
  const Fixture fixture("study_mae");
  Study<Counted, Backend> run(backend, fixture, study_mae_rule(fixture));
  std::vector<double> losses;
  for (index t = 0; t < 6; ++t) losses.push_back(run.step(t, {}));
  return losses;
}

// The device draws the host's masks, anew in every replay of the recorded step.
TEST_F(DeviceMae, TrainsAsTheHostDoes) {
  cuda::Backend<float> device;
  cuda::Backend<bf16> low;
  cpu::Backend<double> host(1);
  const auto expected = losses_on(host), in_float = losses_on(device), in_bf16 = losses_on(low);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    EXPECT_NEAR(in_float[t], expected[t], 1e-4) << t;
    EXPECT_NEAR(in_bf16[t], expected[t], 3e-2) << t;
  }
}

}  // namespace
}  // namespace tessera::test
