#include "tessera/objectives/linear_probe.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "cuda/operation.hpp"
#include "support/study.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {
namespace {

class DeviceLinearProbe : public DeviceTest<float> {};
using Objective = objectives::LinearProbe<StudyEncoder<>, 7, 3, objectives::ProbeNorm::batch_norm>;

constexpr index batch = 6;

// Each classifier's losses of some steps, one after the other.
template <class Backend>
std::vector<double> losses_on(Backend& backend) {
  comm::Serial alone;
  TrainerOn<Objective, Backend> trainer(backend, alone, optim::Lars{.weight_decay = 0},
                                        {.batch = batch, .seed = 5, .groups = Objective::groups({})});
  Held<typename Backend::Scalar, Backend> images(backend, batch * Objective::Encoder::in);
  const typename Backend::template Buffer<int> labels(batch);
  auto read = batch_of<Objective>(static_cast<const typename Backend::Scalar*>(images.data()), batch);
  read.labels = labels.data();
  std::vector<double> losses;
  for (std::uint32_t t = 0; t < 5; ++t) {
    Random random(3, Purpose::test, t, 0);
    images.assign(normal(random, batch, Objective::Encoder::in).values);
    std::vector<int> drawn;
    for (index i = 0; i < batch; ++i) drawn.push_back(static_cast<int>(random.below(Objective::classes)));
    backend.upload(batch, drawn.data(), labels.data());
    trainer.step(read, {.learning_rate = 0.1});
    for (const auto& tensor : trainer.networks().tensors())
      if (tensor.name == "losses")
        for (const auto loss : downloaded(backend, tensor.data, Objective::classifiers))
          losses.push_back(static_cast<double>(loss));
  }
  return losses;
}

TEST_F(DeviceLinearProbe, TrainsAsTheHostDoes) {
  cpu::Backend<double> host(1);
  cuda::Backend<float> device;
  cuda::Backend<bf16> low;
  const auto expected = losses_on(host), in_float = losses_on(device), in_bf16 = losses_on(low);
  ASSERT_EQ(expected.size(), 15u);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(in_float[i], expected[i], 1e-4) << i;
    EXPECT_NEAR(in_bf16[i], expected[i], 0.1) << i;
  }
}

}  // namespace
}  // namespace tessera::test
