// expect: crops are grey or RGB: 1 channel or 3
#include "tessera/data/reads.hpp"
#include "tessera/models/vit/embed.hpp"
namespace data = tessera::data;
#ifdef BAD
constexpr int channels = 2;
#else
constexpr int channels = 3;
#endif
static_assert(data::Reads<data::Crops<2, tessera::image<28, channels>>>::crops == 2);
