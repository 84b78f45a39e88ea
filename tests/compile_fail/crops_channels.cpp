// expect: crops have 1 to 16 channels
#include "tessera/data/reads.hpp"
#include "tessera/models/vit/embed.hpp"
namespace data = tessera::data;
#ifdef BAD
constexpr int channels = 17;
#else
constexpr int channels = 5;
#endif
static_assert(data::Reads<data::Crops<2, tessera::image<28, channels>>>::crops == 2);
