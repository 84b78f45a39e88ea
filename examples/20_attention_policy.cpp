// An attention policy of one's own: every token receives the mean of all values, as in PoolFormer (Yu et al., 2022).
// The program checks its gradients and trains a step with it. examples/relu_attention.hpp is a policy with products.
#include <fmt/format.h>

#include "tessera/tessera.hpp"
#include "tessera/testing/gradient.hpp"

namespace ts = tessera;

struct MeanAttention {
  // Backward needs nothing besides q, k and v.
  template <class Scalar, int tokens, int heads>
  struct Saved {};

  // out (images*tokens x width) from qkv (images*tokens x 3 width): q, k, v, each with its heads side by side.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context& context, ts::Rows<const Scalar, 3 * width> qkv,
                                              ts::Rows<Scalar, width> out) {
    for_images<tokens>(context, qkv.rows, [=](ts::index first) {
      for (int c = 0; c < width; ++c) {
        Scalar sum = 0;
        for (int t = 0; t < tokens; ++t) sum += qkv.row(first + t)[2 * width + c];
        for (int t = 0; t < tokens; ++t) out.row(first + t)[c] = sum / Scalar(tokens);
      }
    });
    return {};
  }

  // Assigns d_qkv.
  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context& context, ts::Rows<const Scalar, 3 * width>, ts::Rows<const Scalar, width>,
                       const Saved<Scalar, tokens, heads>&, ts::Rows<const Scalar, width> d_out,
                       ts::Rows<Scalar, 3 * width> d_qkv) {
    for_images<tokens>(context, d_qkv.rows, [=](ts::index first) {
      for (int c = 0; c < width; ++c) {
        Scalar sum = 0;
        for (int t = 0; t < tokens; ++t) sum += d_out.row(first + t)[c];
        for (int t = 0; t < tokens; ++t) {
          d_qkv.row(first + t)[c] = d_qkv.row(first + t)[width + c] = 0;  // neither q nor k counts
          d_qkv.row(first + t)[2 * width + c] = sum / Scalar(tokens);
        }
      }
    });
  }

 private:
  // Calls body(first row) for every image, in parallel; does nothing while memory is planned.
  template <int tokens, class Context, class Body>
  static void for_images(Context& context, ts::index rows, Body body) {
    context.backend.for_pieces(rows / tokens, 1, [&](ts::index first, ts::index last, int) {
      for (ts::index image = first; image < last; ++image) body(image * tokens);
    });
  }
};

using Encoder = ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, ts::vit::policies<MeanAttention>>;
using MoCo = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, 64, 32>, ts::heads::Mlp<2, 64, 32>>;

int main() {
  const double error = ts::testing::gradient_error<ts::nn::Attention<12, 5, 3, MeanAttention>>(3 * 5);
  fmt::print("largest error of a gradient against finite differences: {:.1e}\n", error);
  ts::cpu::Device device;
  ts::Trainer<MoCo, ts::cpu::Device<>> trainer(device, ts::optim::AdamW{}, {.batch = 8, .seed = 1});
  const std::vector<float> pixels(2 * 8 * Encoder::in, 0.5f);
  auto batch = ts::data::Batch<float, MoCo::Reads>::planned(8);
  std::get<0>(batch.crops).data = pixels.data();
  fmt::print("loss of a step: {:.4f}\n", trainer.step(batch, {.learning_rate = 1e-3}));
  return error < 1e-7 ? 0 : 1;
}
