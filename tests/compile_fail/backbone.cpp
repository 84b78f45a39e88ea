// expect: tessera: an encoder is a Layer from images to features with Image and encode
#include "tessera/models/heads.hpp"
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
#ifdef BAD
using Encoder = ts::nn::Linear<784, 32>;  // takes no images
#else
using Encoder = ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>>;
#endif
static_assert(ts::WithHead<Encoder, ts::heads::Classifier<10>>::out == 10);
