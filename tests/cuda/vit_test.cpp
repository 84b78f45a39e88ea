#include "tessera/models/vit/vit.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "cuda/operation.hpp"
#include "support/parity.hpp"
#include "support/passes.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/cuda/cuda.hpp"

namespace tessera::test {
namespace {

class DeviceVisionTransformer : public DeviceTest<float> {};

template <class Variant>
void check_on_device() {
  cuda::Backend<float> backend;
  check_variant<Variant>(backend);
}

TEST_F(DeviceVisionTransformer, Plain) {
  check_on_device<variant::Plain>();
}
TEST_F(DeviceVisionTransformer, MeanOfPatches) {
  check_on_device<variant::Gap>();
}
TEST_F(DeviceVisionTransformer, MeanOfNormalizedPatchesWithLearnedPositions) {
  check_on_device<variant::GapNormLearned>();
}
TEST_F(DeviceVisionTransformer, BatchNormInTheMlp) {
  check_on_device<variant::MlpBatchNorm>();
}
TEST_F(DeviceVisionTransformer, ConvolutionalStem) {
  check_on_device<variant::ConvStem>();
}

using Encoder = PassesEncoder;

template <class Model>
void compare_with_the_cpu() {
  cpu::Backend<double> host(1);
  const std::vector<double> expected = forward_and_backward<Model>(host);
  cuda::Backend<float> exact;
  EXPECT_LT(relative_error(forward_and_backward<Model>(exact).data(), expected), 1e-5);
  cuda::Backend<bf16> rounded;
  EXPECT_LT(relative_error(forward_and_backward<Model>(rounded).data(), expected), 5e-2);
}

TEST_F(DeviceVisionTransformer, MeanOfPatchesBehindAClassToken) {
  compare_with_the_cpu<Encoder>();
}
TEST_F(DeviceVisionTransformer, AnotherImageSize) {
  compare_with_the_cpu<Encoder::at<image<12>>>();
}
TEST_F(DeviceVisionTransformer, AllTokens) {
  compare_with_the_cpu<Encoder::Tokens>();
}
TEST_F(DeviceVisionTransformer, VisiblePatches) {
  compare_with_the_cpu<Encoder::Visible<3>>();
}
TEST_F(DeviceVisionTransformer, VisiblePatchesAtAnotherImageSize) {
  compare_with_the_cpu<Encoder::at<image<12>>::Visible<3>>();
}

}  // namespace
}  // namespace tessera::test
