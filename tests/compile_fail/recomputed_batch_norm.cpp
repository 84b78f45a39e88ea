// expect: a block with BatchNorm cannot be recomputed
#include <tessera/models/vit/vit.hpp>

namespace ts = tessera;

#ifdef BAD
using Norm = ts::mlp_norm::BatchNorm;
#else
using Norm = ts::mlp_norm::LayerNorm;
#endif

using Encoder =
    ts::VisionTransformer<ts::image<28, 1>, ts::patch<7>, 32, 2, 2, 4, ts::vit::policies<Norm, ts::recompute::Blocks>>;
static_assert(ts::Layout<Encoder>::parameter_count > 0);
