// expect: crops have 1 to 16384 pixels a side
#include "tessera/data/reads.hpp"
#include "tessera/models/vit/embed.hpp"
namespace data = tessera::data;
#ifdef BAD
constexpr int size = 16385;
#else
constexpr int size = 16384;
#endif
static_assert(data::Reads<data::Crops<2, tessera::image<size, 1>>>::crops == 2);
