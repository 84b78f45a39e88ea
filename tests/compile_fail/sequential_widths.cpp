// expect: every layer must take as many features as the one before it gives
#include "tessera/nn/sequential.hpp"
namespace nn = tessera::nn;
#ifdef BAD
using Second = nn::Linear<9, 4>;
#else
using Second = nn::Linear<8, 4>;
#endif
using Head = nn::Sequential<nn::Linear<16, 8>, Second>;
static_assert(tessera::Layout<Head>::parameter_count > 0);
