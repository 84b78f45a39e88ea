// MAE's networks out of the library's parts, against the reference: an encoder of the visible patches, a decoder of all
// (docs/method.md, 10). Masking, mask tokens and loss are written out here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "support/fixture.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/init.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/nn/linear.hpp"

namespace tessera::test {
namespace {

using Encoder = VisionTransformer<image<24>, patch<6>, 20, 2, 5, 4, vit::policies<position::SinCos2dColumnsFirst>>;
constexpr int all = Encoder::patches, kept = 4, hidden = all - kept, decoder_width = 16;  // 0.3 * 16 = 4.8
using Visible = Encoder::Visible<kept>;
constexpr int pixels = 3 * 6 * 6;

struct Masked {
  using Embed = nn::Linear<Encoder::width, decoder_width>;
  using Decoder = vit::Trunk<decoder_width, 1, 2, all + 1>;
  using Predict = nn::Linear<decoder_width, pixels>;

  template <class Leaf>
  struct Parameters {
    Encoder::Parameters<Leaf> encoder;
    Leaf mask_token{}, positions{};
    Embed::Parameters<Leaf> embed;
    Decoder::Parameters<Leaf> decoder;
    Predict::Parameters<Leaf> predict;
  };

  template <class Visit>
  static constexpr auto declare(Visit& visit, const Name& name) {
    Parameters<typename Visit::Leaf> p;
    p.encoder = Encoder::declare(visit, name);
    p.mask_token = visit(name / "mask_token", Shape(1, 1, decoder_width), Role::trained, Initial::normal(0.02));
    p.positions = visit(name / "decoder_pos_embed", Shape(1, all + 1, decoder_width), Role::frozen,
                        Initial::sincos_2d_columns_first());
    p.embed = Embed::declare(visit, name / "decoder_embed");
    p.decoder = Decoder::declare(visit, name / "decoder_blocks", name / "decoder_norm");
    p.predict = Predict::declare(visit, name / "decoder_pred");
    return p;
  }
};

template <int columns>
struct Array {
  explicit Array(index rows) : values(static_cast<std::size_t>(rows * columns)) {}
  [[nodiscard]] Rows<double, columns> rows() { return {values.data(), static_cast<index>(values.size()) / columns}; }
  [[nodiscard]] Rows<const double, columns> input() { return rows(); }
  std::vector<double> values;
};

// The numbers of each image's patches in the order of their noise.
std::vector<std::vector<int>> orders(const Fixture& fixture, index images) {
  const std::vector<double>& noise = fixture.tensor("noise").values;
  std::vector<std::vector<int>> orders;
  for (index image = 0; image < images; ++image) {
    auto& order = orders.emplace_back(all);
    std::iota(order.begin(), order.end(), 0);
    const double* const from = noise.data() + image * all;
    std::ranges::sort(order, {}, [from](int patch) { return from[patch]; });
  }
  return orders;
}

TEST(Masked, PositionTablesHaveTheColumnInFront) {
  const Fixture fixture("mae");
  std::vector<double> values(static_cast<std::size_t>(Layout<Masked>::parameters)), none(1);
  initialize(std::span<const Entry>(Layout<Masked>::entries), 1, values.data(), none.data());
  int tables = 0;
  for (const Entry& entry : Layout<Masked>::entries)
    if (entry.initial.kind == Initial::Kind::sincos_2d_columns_first) {
      const std::string name = "before." + std::string(entry.name.view());
      expect_close(name, values.data() + entry.offset, fixture.tensor(name), 1e-12);
      ++tables;
    }
  EXPECT_EQ(tables, 2);
}

TEST(Masked, AutoencoderEqualsTheReference) {
  const Fixture fixture("mae");
  const index images = fixture.tensor("x").shape[0];
  const auto entries = std::span<const Entry>(Layout<Masked>::entries);
  std::vector<double> values(static_cast<std::size_t>(Layout<Masked>::parameters)), gradients(values.size()), none(1);
  fixture.load(entries, "before.", values.data(), none.data());
  const auto p = bind<Masked>(values.data(), none.data());
  const auto g = bind<Masked>(gradients.data(), static_cast<double*>(nullptr));
  const std::vector<double>& x = fixture.tensor("x").values;
  const std::vector<double>& mask = fixture.tensor("mask").values;

  std::vector<int> keep, place;  // place[row]: where the decoder has row `row` of the visible tokens
  const auto order = orders(fixture, images);
  for (index image = 0; image < images; ++image) {
    place.push_back(static_cast<int>(image) * (all + 1));
    for (int i = 0; i < kept; ++i) {
      const int patch = order[static_cast<std::size_t>(image)][static_cast<std::size_t>(i)];
      keep.push_back(patch);
      place.push_back(static_cast<int>(image) * (all + 1) + 1 + patch);
    }
  }

  const Rows<const double, Encoder::in> input{x.data(), images};
  Array<Encoder::width> latent(Visible::out_rows(images)), d_latent(Visible::out_rows(images));
  Array<decoder_width> embedded(latent.rows().rows), d_embedded(embedded.rows().rows), sequence(images * (all + 1)),
      decoded(sequence.rows().rows), d_decoded(sequence.rows().rows);
  Array<pixels> prediction(sequence.rows().rows), d_prediction(sequence.rows().rows);

  // The mask token at all patches, the visible ones over it, then the decoder's positions.
  const auto fill_gaps = [&] {
    for (index row = 0; row < sequence.rows().rows; ++row)
      for (index c = 0; c < decoder_width; ++c) sequence.rows().row(row)[c] = p.mask_token[c];
    for (std::size_t row = 0; row < place.size(); ++row)
      std::copy_n(embedded.rows().row(static_cast<index>(row)), decoder_width, sequence.rows().row(place[row]));
    for (index row = 0; row < sequence.rows().rows; ++row)
      for (index c = 0; c < decoder_width; ++c)
        sequence.rows().row(row)[c] += p.positions[row % (all + 1) * decoder_width + c];
  };
  // Mean squared error of the hidden patches, on pixels in the order row, column, channel.
  const auto take_loss = [&] {
    double loss = 0;
    for (index image = 0; image < images; ++image)
      for (index patch = 0; patch < all; ++patch) {
        std::vector<double> target;
        for (index i = 0; i < pixels; ++i) {
          const index row = patch / 4 * 6 + i / 18, column = patch % 4 * 6 + i / 3 % 6;
          target.push_back(input.row(image)[(i % 3 * 24 + row) * 24 + column]);
        }
        const double mean = std::accumulate(target.begin(), target.end(), 0.0) / pixels;
        double variance = 0;
        for (const double value : target) variance += (value - mean) * (value - mean) / (pixels - 1);
        const index row = image * (all + 1) + 1 + patch;
        const double weight =
            mask[static_cast<std::size_t>(image * all + patch)] / static_cast<double>(images * hidden * pixels);
        for (index i = 0; i < pixels; ++i) {
          const double off =
              prediction.rows().row(row)[i] - (target[static_cast<std::size_t>(i)] - mean) / std::sqrt(variance + 1e-6);
          loss += weight * off * off;
          d_prediction.rows().row(row)[i] = 2 * weight * off;
        }
      }
    return loss;
  };
  const auto split_gradient = [&] {  // d_decoded holds that of the sequence
    std::fill_n(g.mask_token, decoder_width, 0.0);
    std::vector<char> visible(static_cast<std::size_t>(sequence.rows().rows));
    for (std::size_t row = 0; row < place.size(); ++row) {
      visible[static_cast<std::size_t>(place[row])] = 1;
      std::copy_n(d_decoded.rows().row(place[row]), decoder_width, d_embedded.rows().row(static_cast<index>(row)));
    }
    for (index row = 0; row < sequence.rows().rows; ++row)
      for (index c = 0; c < decoder_width && visible[static_cast<std::size_t>(row)] == 0; ++c)
        g.mask_token[c] += d_decoded.rows().row(row)[c];
  };

  cpu::Backend<double> backend(2);
  comm::Serial communicator;
  double loss = 0;
  for (const bool planned : {false, true}) {
    Context<cpu::Backend<double>, comm::Serial> context{backend, communicator};
    const auto frame = context.frame();
    const auto saved = Visible::forward(context, p.encoder, input, keep.data(), latent.rows());
    Masked::Embed::forward(context, p.embed, latent.input(), embedded.rows());
    fill_gaps();
    const auto saved_decoder = Masked::Decoder::forward(context, p.decoder, sequence.input(), decoded.rows());
    Masked::Predict::forward(context, p.predict, decoded.input(), prediction.rows());
    loss = take_loss();
    Masked::Predict::backward(context, p.predict, g.predict, decoded.input(), nn::Nothing{}, d_prediction.input(),
                              d_decoded.rows());
    Masked::Decoder::backward(context, p.decoder, g.decoder, sequence.input(), saved_decoder, d_decoded.input(),
                              d_decoded.rows());
    split_gradient();
    Masked::Embed::backward(context, p.embed, g.embed, latent.input(), nn::Nothing{}, d_embedded.input(),
                            d_latent.rows());
    Visible::backward(context, p.encoder, g.encoder, input, keep.data(), saved, d_latent.input());
    if (!planned) backend.arena().commit();
  }

  std::vector<double> predicted;
  for (index image = 0; image < images; ++image) {
    const double* const first = prediction.rows().row(image * (all + 1) + 1);
    predicted.insert(predicted.end(), first, first + all * pixels);
  }
  expect_close("pred", predicted.data(), fixture.tensor("pred"));
  EXPECT_NEAR(loss, fixture.tensor("loss").values[0], 1e-12);
  EXPECT_GT(expect_entries_close<double>(fixture, entries, "grad.", gradients.data(), nullptr), 40);

  Array<Encoder::width> encoded(latent.rows().rows);
  Context<cpu::Backend<double>, comm::Serial> context{backend, communicator, Mode::evaluate};
  Visible::encode(context, p.encoder, input, keep.data(), encoded.rows());
  EXPECT_EQ(encoded.values, latent.values);
}

}  // namespace
}  // namespace tessera::test
