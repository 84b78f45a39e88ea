// expect: tessera: a layer needs in, out, Parameters, Saved, out_rows(rows)
#include "tessera/nn/linear.hpp"
#include "tessera/testing/gradient.hpp"
namespace ts = tessera;
struct WithoutRows {
  static constexpr int in = 3, out = 3;
};
#ifdef BAD
using Layer = WithoutRows;
#else
using Layer = ts::nn::Linear<3, 4>;
#endif
double error() {
  return ts::testing::gradient_error<Layer>(2);
}
