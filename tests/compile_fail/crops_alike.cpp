// expect: tessera: all crops of an objective have the same number of channels
#include "tessera/data/reads.hpp"
#include "tessera/models/vit/embed.hpp"
namespace data = tessera::data;
#ifdef BAD
constexpr int channels = 1;
#else
constexpr int channels = 3;
#endif
using Small = tessera::image<16, channels>;
static_assert(data::Reads<data::Crops<2, tessera::image<28>>, data::Crops<4, Small>>::crops == 6);
