// Drop path in whole encoders (docs/method.md, 9.4).
#include "tessera/nn/drop_path.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/init.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<8, 2>, patch<4>, 12, 2, 3, 2, vit::policies<pooling::MeanNorm>>;
constexpr index images = 3;

// Features and gradients of two passes, one of which plans.
std::vector<double> pass(const std::vector<double>& scales) {
  cpu::Backend<double> backend(2);
  comm::Serial communicator;
  std::vector<double> values(static_cast<std::size_t>(Layout<Encoder>::parameters)), gradients(values.size()), none(1),
      x(images * Encoder::in), y(images * Encoder::out), dy(y.size());
  initialize(std::span<const Entry>(Layout<Encoder>::entries), 1, values.data(), none.data());
  Random random(1, Purpose::test, 0, 0);
  for (double& value : x) value = random.normal();
  for (double& value : dy) value = random.normal();
  for (const bool planned : {false, true}) {
    Context<cpu::Backend<double>, comm::Serial> context{backend, communicator};
    context.drop_path = !scales.empty();
    context.branch_scales = planned ? scales.data() : nullptr;
    const auto frame = context.frame();
    const auto p = bind<Encoder>(values.data(), none.data());
    const Rows<const double, Encoder::in> input{x.data(), images};
    const auto saved = Encoder::forward(context, p, input, Rows<double, Encoder::out>{y.data(), images});
    Encoder::backward(context, p, bind<Encoder>(gradients.data(), static_cast<double*>(nullptr)), input, saved,
                      Rows<const double, Encoder::out>{dy.data(), images});
    if (!planned) backend.arena().commit();
  }
  y.insert(y.end(), gradients.begin(), gradients.end());
  return y;
}

TEST(DropPath, WithFactorsOfOneChangesNothing) {
  const auto plain = pass({}), scaled = pass(std::vector<double>(2 * Encoder::depth * images, 1.0));
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(plain[i], scaled[i], 1e-12);
}

TEST(DropPath, WithoutBranchesFeaturesAreThoseOfTheEmbedding) {
  std::vector<double> none(2 * Encoder::depth * images, 0.0), of_one_image = none;
  for (std::size_t row = 0; row < 2 * Encoder::depth; ++row) of_one_image[row * images + 1] = 1;
  const auto all = pass(none), one = pass(of_one_image), plain = pass({});
  for (std::size_t image = 0; image < images; ++image)
    for (std::size_t c = 0; c < Encoder::out; ++c) {
      const std::size_t i = image * Encoder::out + c;
      EXPECT_NEAR(one[i], image == 1 ? plain[i] : all[i], 1e-12);
    }
  const double* const gradients = all.data() + images * Encoder::out;
  for (const Entry& entry : Layout<Encoder>::entries)
    for (index i = 0; entry.name.view().starts_with("blocks") && i < entry.size(); ++i)
      EXPECT_EQ(gradients[entry.offset + i], 0) << entry.name.view();
}

}  // namespace
}  // namespace tessera::test
