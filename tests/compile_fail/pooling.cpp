// expect: a pooling needs class_token and final_norm
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct Half {
  static constexpr bool class_token = true;
};
#ifdef BAD
using Pooling = Half;
#else
using Pooling = ts::pooling::Mean;
#endif
using Model = ts::VisionTransformer<ts::image<32>, ts::patch<8>, 96, 2, 6, 4, ts::vit::policies<Pooling>>;
static_assert(ts::Layout<Model>::parameter_count > 0);
