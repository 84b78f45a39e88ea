// expect: both heads must have the same output width
#include "tessera/models/vit.hpp"
#include "tessera/ssl/moco_v3.hpp"
namespace ts = tessera;
#ifdef BAD
using Predictor = ts::ssl::Predictor<64, 32>;
#else
using Predictor = ts::ssl::Predictor<64, 16>;
#endif
using Method = ts::ssl::MoCoV3<ts::vit::Tiny<>, ts::ssl::Projector<64, 16>, Predictor>;
static_assert(ts::Layout<Method>::parameter_count > 0);
