// expect: the number of heads must divide the width
#include "tessera/models/vit/vit.hpp"
#ifdef BAD
constexpr int heads = 7;
#else
constexpr int heads = 6;
#endif
using Model = tessera::VisionTransformer<tessera::image<32>, tessera::patch<8>, 96, 2, heads>;
static_assert(tessera::Layout<Model>::parameter_count > 0);
