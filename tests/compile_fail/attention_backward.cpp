// expect: an attention policy needs
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct ForwardOnly {
  template <class Scalar, int tokens, int heads>
  struct Saved {};
  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context&, ts::Rows<const Scalar, 3 * width>, ts::Rows<Scalar, width>) {
    return {};
  }
};
#ifdef BAD
using Attention = ForwardOnly;
#else
using Attention = ts::attention::SoftmaxAttention;
#endif
using Model = ts::VisionTransformer<ts::image<32>, ts::patch<8>, 96, 2, 6, 4, ts::vit::policies<Attention>>;
static_assert(ts::Layout<Model>::parameter_count > 0);
