// Clipping of gradients by the norm of all of them (docs/method.md, 4.8), in passes over flat buffers. The norm stays
// in device memory.
#pragma once

#include "tessera/core/clipping.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/update.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

// squares[block] = the sum of squares that the block found.
template <class Value>
__global__ void squares_kernel(index count, const Value* values, double* squares) {
  double sum = 0;
  for_pieces(count, [&](Piece piece) {
    Value value[update_width];
    load_piece(values, piece, value);
    sum += static_cast<double>(square_of_piece(value));
  });
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// *sum += all squares, by one block.
template <class Total>
__global__ void sum_squares_kernel(int parts, const double* squares, Total* sum) {
  double mine = 0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += update_threads) mine += squares[part];
  mine = sum_of_block(mine);
  if (threadIdx.x == 0) *sum += mine;
}

template <class Value>
__global__ void clip_kernel(index count, double limit, const double* square, const double* blocked, Value* values) {
  if (*blocked != 0) return;
  const double factor = clipping_factor(*square, limit);
  if (factor == 1) return;
  const Value scale = static_cast<Value>(factor);
  for_pieces(count, [&](Piece piece) {
    Value value[update_width];
    load_piece(values, piece, value);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) value[i] *= scale;
    store_piece(values, piece, value);
  });
}

}  // namespace detail

// *sum += the sum of the squares of all values, in double and in a fixed order.
template <class Scalar>
void add_squares(Backend<Scalar>& backend, index count, const Accumulator<Scalar>* values, double* sum) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const int parts = detail::blocks_for_norms(count);
  double* const squares = backend.arena().template take<double>(parts);
  launch(backend, dim3(static_cast<unsigned>(parts)), detail::update_threads, detail::norm_shared_bytes,
         detail::squares_kernel<Accumulator<Scalar>>, count, values, squares);
  launch(backend, dim3(1), detail::update_threads, detail::norm_shared_bytes, detail::sum_squares_kernel<double>, parts,
         squares, sum);
}

// values *= clipping_factor(*square, limit). Nothing changes if the factor is 1 or *blocked is not 0.
template <class Scalar>
void clip(Backend<Scalar>& backend, index count, double limit, const double* square, const double* blocked,
          Accumulator<Scalar>* values) {
  launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
         detail::clip_kernel<Accumulator<Scalar>>, count, limit, square, blocked, values);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
