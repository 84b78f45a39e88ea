// Clipping of gradients by their norm, in passes over flat buffers.
#pragma once

#include "tessera/core/clipping.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/update.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

template <class Scalar, class Matmul>
void add_squares(Backend<Scalar, Matmul>& backend, index count, const Accumulator<Scalar>* values, double* sum) {
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  const index pieces = divide_up(count, detail::norm_grain);
  double* const squares = backend.arena().template take<double>(pieces);
  backend.for_pieces(count, detail::update_grain, [&](index first, index last, int) {
    for (index at = first; at < last; at += detail::norm_grain)
      squares[at / detail::norm_grain] = detail::squares(smaller(last - at, detail::norm_grain), values + at);
  });
  backend.compute([&] {
    for (index piece = 0; piece < pieces; ++piece) *sum += squares[piece];
  });
}

template <class Scalar, class Matmul>
void clip(Backend<Scalar, Matmul>& backend, index count, double limit, const double* square, const double* blocked,
          Accumulator<Scalar>* values) {
  backend.compute([&] {
    const double factor = *blocked != 0 ? 1 : clipping_factor(*square, limit);
    if (factor == 1) return;
    backend.for_pieces(count, detail::update_grain, [&](index first, index last, int) {
      const Accumulator<Scalar> scale = static_cast<Accumulator<Scalar>>(factor);
      simd::transform(
          last - first, values + first, [=](auto x) { return scale * x; }, values + first);
    });
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
