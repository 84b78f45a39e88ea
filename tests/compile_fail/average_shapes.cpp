// expect: an average has the shapes of the first tensors of the first trained network
#include "tessera/nn/linear.hpp"
#include "tessera/nn/sequential.hpp"
#include "tessera/objectives/objective.hpp"
namespace nn = tessera::nn;
namespace objectives = tessera::objectives;
using Online = nn::Sequential<nn::Linear<16, 8>, nn::Linear<8, 4>>;
#ifdef BAD
using Target = nn::Linear<8, 4>;
#else
using Target = nn::Linear<16, 8>;
#endif
using Networks =
    objectives::Networks<objectives::Trained<Online>, objectives::Average<objectives::Named<"target", Target>>>;
static_assert(tessera::Layout<Networks::Online>::parameter_count > 0);
