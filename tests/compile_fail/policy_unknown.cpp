// expect: tessera: this type is no policy of a Vision Transformer
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct Nothing {};
#ifdef BAD
using Policy = Nothing;
#else
using Policy = ts::position::Learned;
#endif
using Model = ts::VisionTransformer<ts::image<32>, ts::patch<8>, 96, 2, 6, 4, ts::vit::policies<Policy>>;
static_assert(ts::Layout<Model>::parameter_count > 0);
