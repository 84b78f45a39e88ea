// Built with -ffast-math, which lets the compiler assume that NaN does not exist.
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "tessera/core/math.hpp"

namespace simd = tessera::simd;

template <class Scalar>
bool pack_is_finite(const Scalar* values) {
  return !simd::any<Scalar>(tessera::math::not_finite<Scalar>(simd::load(values)));
}

template <class Scalar>
bool guarded() {
  std::vector<Scalar> values(100, Scalar(1));
  if (!tessera::math::all_finite(values.data(), 100) || !pack_is_finite(values.data() + 57)) return false;
  for (const Scalar bad : {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity(),
                           -std::numeric_limits<Scalar>::infinity()}) {
    values[57] = bad;
    if (tessera::math::all_finite(values.data(), 100) || pack_is_finite(values.data() + 57)) return false;
  }
  return true;
}

int main() {
  const bool ok = guarded<float>() && guarded<double>();
  std::puts(ok ? "NaN and infinity are seen" : "NaN or infinity goes unseen");
  return ok ? 0 : 1;
}
