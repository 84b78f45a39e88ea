#include "tessera/models/vit.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

using vit::policies;

// The reference cases: one type each, named as the fixture's file.
struct Plain {
  static constexpr const char* name = "vit";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5>;
};
struct Gap {
  static constexpr const char* name = "vit_gap";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4,
                                  policies<embed::Patches, position::None, attention::SoftmaxAttention, pooling::Mean>>;
};
struct GapNormLearned {
  static constexpr const char* name = "vit_gap_norm_learned";
  using Model =
      VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4,
                        policies<embed::Patches, position::Learned, attention::SoftmaxAttention, pooling::MeanNorm>>;
};
struct MlpBatchNorm {
  static constexpr const char* name = "vit_mlp_batchnorm";
  using Model = VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4,
                                  policies<embed::Patches, position::SinCos2d, attention::SoftmaxAttention,
                                           pooling::ClassToken, mlp_norm::BatchNorm>>;
};
struct ConvStem {
  static constexpr const char* name = "vit_conv_stem";
  using Model = VisionTransformer<image<32>, patch<16>, 32, 2, 4, 4, policies<embed::ConvStem>>;
};

template <class Case_, class Scalar_, int threads_>
struct Instance {
  using Case = Case_;
  using Scalar = Scalar_;
  static constexpr int threads = threads_;
};

template <class Instance>
class VisionTransformerParity : public testing::Test {};

using Instances =
    testing::Types<Instance<Plain, double, 1>, Instance<Plain, double, 3>, Instance<Plain, float, 2>,
                   Instance<Gap, double, 1>, Instance<Gap, float, 2>, Instance<GapNormLearned, double, 1>,
                   Instance<GapNormLearned, float, 2>, Instance<MlpBatchNorm, double, 2>,
                   Instance<MlpBatchNorm, float, 2>, Instance<ConvStem, double, 2>, Instance<ConvStem, float, 2>>;
TYPED_TEST_SUITE(VisionTransformerParity, Instances);

TYPED_TEST(VisionTransformerParity, EqualsTheReference) {
  using Scalar = typename TypeParam::Scalar;
  using Model = typename TypeParam::Case::Model;
  using Table = Layout<Model>;
  const Fixture fixture(TypeParam::Case::name);
  cpu::Backend<Scalar> backend(TypeParam::threads);
  comm::Serial communicator;
  cpu::Buffer<Scalar> parameters(Table::parameters), gradients(Table::parameters), statistics(Table::statistics);
  fixture.load(std::span<const Entry>(Table::entries), "before.", parameters.data(), statistics.data());
  const auto p = bind<Model>(parameters.data(), statistics.data());
  const auto g = bind<Model>(gradients.data(), static_cast<Scalar*>(nullptr));

  const auto x = fixture.values<Scalar>("x");
  const auto gradient = fixture.values<Scalar>("grad_features");
  const index images = fixture.tensor("x").shape[0], rows = images * Model::tokens;
  const Rows<const Scalar, Model::in> input{x.data(), images};
  std::vector<Scalar> features(static_cast<std::size_t>(images * Model::out)), d_images(x.size()),
      tokens(static_cast<std::size_t>(rows * Model::width)),
      weights(static_cast<std::size_t>(rows * Model::heads * Model::tokens));

  const auto pass = [&] {
    Context<cpu::Backend<Scalar>, comm::Serial> context{backend, communicator};
    const auto frame = context.frame();
    const auto saved = Model::forward(context, p, input, Rows<Scalar, Model::out>{features.data(), images});
    Model::backward(context, p, g, input, saved, Rows<const Scalar, Model::out>{gradient.data(), images},
                    Rows<Scalar, Model::in>{d_images.data(), images});
  };
  const auto evaluate = [&](Mode mode) {
    Context<cpu::Backend<Scalar>, comm::Serial> context{backend, communicator, mode};
    Model::encode(context, p, input, Rows<Scalar, Model::out>{features.data(), images});
    if (mode == Mode::train) return;
    Model::encode_attention(context, p, input, 0, Rows<Scalar, Model::tokens>{weights.data(), rows * Model::heads});
  };
  const auto encode_tokens = [&] {
    Context<cpu::Backend<Scalar>, comm::Serial> context{backend, communicator};
    Model::encode_tokens(context, p, input, Rows<Scalar, Model::width>{tokens.data(), rows});
  };
  pass();
  evaluate(Mode::evaluate);
  encode_tokens();
  backend.arena().commit();

  pass();
  expect_close("features", features.data(), fixture.tensor("features"));
  expect_close("grad_x", d_images.data(), fixture.tensor("grad_x"));
  EXPECT_GT(expect_entries_close(fixture, std::span<const Entry>(Table::entries), "grad.", gradients.data(),
                                 static_cast<const Scalar*>(nullptr)),
            20);
  expect_entries_close(fixture, std::span<const Entry>(Table::entries), "after.", static_cast<const Scalar*>(nullptr),
                       statistics.data());
  evaluate(Mode::evaluate);
  expect_close("features_eval", features.data(), fixture.tensor("features_eval"));
  expect_close("block0_attention", weights.data(), fixture.tensor("block0_attention"));
  encode_tokens();
  expect_close("tokens", tokens.data(), fixture.tensor("tokens"));
}

}  // namespace
}  // namespace tessera::test
