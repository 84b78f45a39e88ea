// expect: the convolutional stem has a total stride of 16
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
#ifdef BAD
using Patch = ts::patch<8>;
#else
using Patch = ts::patch<16>;
#endif
using Model = ts::VisionTransformer<ts::image<32>, Patch, 96, 2, 6, 4, ts::vit::policies<ts::embed::ConvStem>>;
static_assert(ts::Layout<Model>::parameter_count > 0);
