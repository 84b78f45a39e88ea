// expect: sine-cosine position embeddings need a width divisible by 4
#include "tessera/models/vit/vit.hpp"
#ifdef BAD
constexpr int width = 90;
#else
constexpr int width = 96;
#endif
using Model = tessera::VisionTransformer<tessera::image<32>, tessera::patch<8>, width, 2, 6>;
static_assert(tessera::Layout<Model>::parameter_count > 0);
