// expect: both heads must have the same output width
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
namespace ts = tessera;
#ifdef BAD
using Predictor = ts::heads::Mlp<2, 64, 32>;
#else
using Predictor = ts::heads::Mlp<2, 64, 16>;
#endif
using MoCo = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 64, 16>, Predictor>;
static_assert(ts::Layout<MoCo::Networks::Online>::parameter_count > 0);
