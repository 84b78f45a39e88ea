// expect: tessera: the attention policy has no weights(), and so no attention maps
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct NoMaps {
  template <class Scalar, int tokens, int heads>
  struct Saved {};
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context&, ts::Rows<const Scalar, 3 * width>, ts::Rows<Scalar, width>) {
    return {};
  }
  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context&, ts::Rows<const Scalar, 3 * width>, ts::Rows<const Scalar, width>,
                       const Saved<Scalar, tokens, heads>&, ts::Rows<const Scalar, width>,
                       ts::Rows<Scalar, 3 * width>) {}
};
#ifdef BAD
using Attention = NoMaps;
#else
using Attention = ts::attention::SoftmaxAttention;
static_assert(
    !ts::VisionTransformer<ts::image<8>, ts::patch<4>, 12, 1, 3, 4, ts::vit::policies<NoMaps>>::has_attention_maps);
#endif
using Model = ts::VisionTransformer<ts::image<8>, ts::patch<4>, 12, 1, 3, 4, ts::vit::policies<Attention>>;
void draw(ts::Context<ts::cpu::Backend<float, ts::cpu::EigenMatmul>, ts::comm::Serial>& context,
          const Model::Parameters<float*>& p, ts::Rows<const float, Model::in> images,
          ts::Rows<float, Model::tokens> weights) {
  Model::encode_attention(context, p, images, 0, weights);
}
