#include "tessera/models/vit/vit.hpp"

#include <gtest/gtest.h>

#include "cuda/operation.hpp"
#include "support/parity.hpp"
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

}  // namespace
}  // namespace tessera::test
