// expect: tessera: two policies of a Vision Transformer are of the same kind
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
#ifdef BAD
using Second = ts::pooling::Mean;
#else
using Second = ts::position::Learned;
#endif
using Model = ts::VisionTransformer<ts::image<32>, ts::patch<8>, 96, 2, 6, 4,
                                    ts::vit::policies<ts::pooling::MeanNorm, ts::nn::GeluTanh, Second>>;
static_assert(ts::Layout<Model>::parameter_count > 0);
