#include "tessera/models/vit.hpp"

#include <gtest/gtest.h>

#include "support/parity.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

template <class Variant_, class Scalar_, int threads_>
struct Instance {
  using Variant = Variant_;
  using Scalar = Scalar_;
  static constexpr int threads = threads_;
};

template <class Instance>
class VisionTransformerParity : public testing::Test {};

using Instances = testing::Types<Instance<variant::Plain, double, 1>, Instance<variant::Plain, double, 3>,
                                 Instance<variant::Plain, float, 2>, Instance<variant::Gap, double, 1>,
                                 Instance<variant::Gap, float, 2>, Instance<variant::GapNormLearned, double, 1>,
                                 Instance<variant::GapNormLearned, float, 2>,
                                 Instance<variant::MlpBatchNorm, double, 2>, Instance<variant::MlpBatchNorm, float, 2>,
                                 Instance<variant::ConvStem, double, 2>, Instance<variant::ConvStem, float, 2>>;
TYPED_TEST_SUITE(VisionTransformerParity, Instances);

TYPED_TEST(VisionTransformerParity, EqualsTheReference) {
  cpu::Backend<typename TypeParam::Scalar> backend(TypeParam::threads);
  check_variant<typename TypeParam::Variant>(backend);
}

}  // namespace
}  // namespace tessera::test
