// expect: the patch size must divide the image size
#include "tessera/models/vit/vit.hpp"
#ifdef BAD
using Patch = tessera::patch<7>;
#else
using Patch = tessera::patch<8>;
#endif
using Model = tessera::VisionTransformer<tessera::image<32>, Patch, 96, 2, 6>;
static_assert(tessera::Layout<Model>::parameter_count > 0);
