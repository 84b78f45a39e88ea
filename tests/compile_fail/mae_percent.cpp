// expect: tessera: MAE removes a share of the patches between 0 and 100 percent and keeps at least one patch
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/mae.hpp"
namespace ts = tessera;
#ifdef BAD
constexpr int percent = 95;  // of 16 patches
#else
constexpr int percent = 90;
#endif
using Model = ts::objectives::MAE<ts::vit::Tiny<>, ts::objectives::mae::Decoder<32, 1, 2>, percent>;
static_assert(Model::kept == 1);
