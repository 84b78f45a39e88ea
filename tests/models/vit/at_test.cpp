// An encoder on images of another size: the same tensors, resampled positions.
#include <gtest/gtest.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "support/fixture.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/init.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"

namespace tessera::test {
namespace {

template <class One, class Two>
constexpr bool same_layout() {
  if (Layout<One>::entries.size() != Layout<Two>::entries.size()) return false;
  for (std::size_t i = 0; i < Layout<One>::entries.size(); ++i) {
    const Entry &a = Layout<One>::entries[i], &b = Layout<Two>::entries[i];
    if (a.name.view() != b.name.view() || a.shape != b.shape || a.role != b.role || a.offset != b.offset ||
        a.initial.kind != b.initial.kind || a.initial.scale != b.initial.scale)
      return false;
  }
  return Layout<One>::parameters == Layout<Two>::parameters && Layout<One>::statistics == Layout<Two>::statistics;
}

template <class Encoder, class Image>
constexpr bool same_tensors = same_layout<Encoder, typename Encoder::template at<Image>>() &&
                              std::is_same_v<typename Encoder::template Parameters<float*>,
                                             typename Encoder::template at<Image>::template Parameters<float*>>;

using Learned = VisionTransformer<image<12, 2>, patch<4>, 12, 2, 3, 2, vit::policies<position::Learned>>;
static_assert(same_tensors<vit::Small<>, image<96>>);
static_assert(same_tensors<vit::ConvSmall<>, image<96>>);
static_assert(same_tensors<Learned, image<8, 2>>);
static_assert(same_tensors<VisionTransformer<image<12, 2>, patch<4>, 12, 2, 3, 2,
                                             vit::policies<mlp_norm::BatchNorm, pooling::Mean, position::None>>,
                           image<8, 2>>);
static_assert(std::is_same_v<Learned::at<image<8, 2>>::at<image<12, 2>>, Learned>);
static_assert(Learned::at<image<8, 2>>::tokens == 5 && Learned::at<image<8, 2>>::in == 2 * 8 * 8);

// Another size changes nothing but the tokens and their positions: an encoder whose own table holds the resampled
// values gives the same features.
TEST(AtAnotherSize, PositionsAreResampled) {
  using Small = Learned::at<image<8, 2>>;
  using Own = VisionTransformer<image<8, 2>, patch<4>, 12, 2, 3, 2, vit::policies<position::Learned>>;
  constexpr index images = 3;
  cpu::Backend<double> backend(2);
  comm::Serial communicator;
  std::vector<double> values(static_cast<std::size_t>(Layout<Learned>::parameters)), none(1),
      own(static_cast<std::size_t>(Layout<Own>::parameters)), x(images * Small::in);
  initialize(std::span<const Entry>(Layout<Learned>::entries), 3, values.data(), none.data());
  Random random(1, Purpose::test, 0, 0);
  for (double& value : x) value = random.normal();
  const auto p = bind<Small>(values.data(), none.data());
  const auto q = bind<Own>(own.data(), none.data());
  for (std::size_t i = 0; i < Layout<Own>::entries.size(); ++i) {
    const Entry &from = Layout<Learned>::entries[i], &to = Layout<Own>::entries[i];
    if (from.size() == to.size()) std::copy_n(values.data() + from.offset, from.size(), own.data() + to.offset);
  }
  {
    cpu::Backend<double> now(1);
    now.arena().commit();
    resample_positions<Grid{3, 3}, Grid{2, 2}>(now, Rows<const double, 12>{p.pos_embed, 10}, 0.1,
                                               Rows<double, 12>{q.pos_embed, 5});
  }
  const auto features = [&](auto model, const auto& parameters) {
    using Model = decltype(model);
    backend.arena().reset();
    std::vector<double> y(images * Model::out);
    for (const bool planned : {false, true}) {
      Context<cpu::Backend<double>, comm::Serial> context{backend, communicator, Mode::evaluate};
      Model::encode(context, parameters, Rows<const double, Model::in>{x.data(), images},
                    Rows<double, Model::out>{y.data(), images});
      if (!planned) backend.arena().commit();
    }
    return y;
  };
  EXPECT_LT(relative_error(features(Small{}, p).data(), features(Own{}, q)), 1e-12);
}

}  // namespace
}  // namespace tessera::test
