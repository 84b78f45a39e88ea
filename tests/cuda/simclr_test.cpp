#include "tessera/objectives/simclr.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/study.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

using Reference = objectives::SimCLR<StudyEncoder<>, heads::Mlp<3, study_hidden, study_out>>;
constexpr const char* fixture_name = "study_simclr";
constexpr optim::AdamW adamw{.weight_decay = 0.1};

class DeviceSimCLR : public DeviceTest<float> {};

TEST_F(DeviceSimCLR, EightSteps) {
  cuda::Backend<float> backend;
  check_study<Reference>(backend, fixture_name, adamw,
                         [](const Fixture& fixture, index) { return Reference::Settings{fixture.number("tau")}; });
}

TEST_F(DeviceSimCLR, Bf16StaysCloseToTheReferencesLoss) {
  const Fixture fixture(fixture_name);
  cuda::Backend<bf16> backend;
  Study<Reference, cuda::Backend<bf16>> run(backend, fixture, adamw);
  EXPECT_NEAR(run.step(0, {fixture.number("tau")}), fixture.tensor("loss").values[0], 3e-2);
}

}  // namespace
}  // namespace tessera::test
