#include "tessera/cuda/draws.hpp"

#include "cuda/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class DeviceStepDraws : public DeviceTest<Scalar> {};
TYPED_TEST_SUITE(DeviceStepDraws, DeviceScalars);

template <class Value>
[[nodiscard]] cuda::Buffer<Value> on_device(const Value& value) {
  cuda::Buffer<Value> buffer(1);
  cuda::check(cudaMemcpy(buffer.data(), &value, sizeof(value), cudaMemcpyHostToDevice), "cudaMemcpy");
  cuda::check(cudaDeviceSynchronize(), "cudaMemcpy");
  return buffer;
}

TYPED_TEST(DeviceStepDraws, DropPathIsThatOfTheHost) {
  constexpr int depth = 3;
  constexpr index images = 150, first = 40;
  const StepNumber number{11, 5};
  const double rate = 0.4;
  const auto number_there = on_device(number);
  const auto rate_there = on_device(rate);
  const DeviceValues<float> scales(2 * depth, images);
  run_on_device<TypeParam>(
      [&](cuda::Backend<TypeParam>& backend) {
        draw_drop_path(backend, static_cast<const StepNumber*>(number_there.data()),
                       static_cast<const double*>(rate_there.data()), first, depth, images, scales.data());
      },
      scales);
  const Matrix drawn = scales.values();
  for (index image = 0; image < images; ++image) {
    Random random = drop_path_stream(number, first + image);
    for (int branch = 0; branch < 2 * depth; ++branch) {
      const double expected = drop_path_scale(rate, branch / 2, depth, static_cast<double>(random.uniform()));
      EXPECT_EQ(drawn(branch, image), static_cast<double>(static_cast<float>(expected)));
    }
  }
}

// A recorded step draws anew: number and settings lie in memory of the device.
TEST(DeviceMixingDraws, AreThoseOfEachStepOfARecording) {
  if (!missing_device().empty()) GTEST_SKIP() << missing_device();
  const MixingOdds odds{0.8, 1.0, 0.9, 0.5};
  const auto settings = on_device(odds);
  const auto number = on_device(StepNumber{});
  const cuda::Buffer<Mixing> mixing(1);
  const double* const values = &settings.data()->mixup_alpha;
  cuda::Backend<float> backend;
  cuda::Backend<float>::Recording recording;
  const auto draw = [&] {
    draw_mixing(backend, static_cast<const StepNumber*>(number.data()), values, values + 1, values + 2, values + 3, 32,
                mixing.data());
  };
  draw();
  backend.arena().commit();
  for (std::int64_t step = 0; step < 20; ++step) {
    const StepNumber now{7, step};
    backend.upload(1, &now, number.data());
    backend.replay(recording, draw);
    Mixing drawn;
    backend.download(1, mixing.data(), &drawn);
    const Mixing expected = mixing_of(now, odds, 32);
    EXPECT_EQ(drawn.kind, expected.kind);
    EXPECT_NEAR(drawn.lambda, expected.lambda, 1e-12);
    EXPECT_EQ(drawn.y0, expected.y0);
    EXPECT_EQ(drawn.x1, expected.x1);
  }
}

}  // namespace
}  // namespace tessera::test
