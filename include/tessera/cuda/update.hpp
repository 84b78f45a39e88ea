// Passes over flat buffers: moving averages, optimizer updates, norms. Bound by memory: 16 bytes to a load, and every
// value is read and written once (twice by LARS and LAMB, which need a norm first).
#pragma once

#include <cmath>
#include <span>

#include "tessera/core/layout.hpp"
#include "tessera/core/update.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

namespace detail {

inline constexpr int update_threads = 256, update_width = 4;

// Values [at, at + size) of flat buffers, size <= update_width, at a multiple of it.
struct Piece {
  index at;
  int size;
};

// Calls body(piece) for the pieces of [0, count) that fall to the running thread.
template <class Body>
__device__ inline void for_pieces(index count, Body&& body) {
  const index stride = static_cast<index>(gridDim.x) * update_threads * update_width;
  index at = (static_cast<index>(blockIdx.x) * update_threads + threadIdx.x) * update_width;
  for (; at < count; at += stride)
    body(Piece{at, count - at < update_width ? static_cast<int>(count - at) : update_width});
}

__device__ inline void load_piece(const float* from, Piece piece, float (&to)[update_width]) {
  if (piece.size == update_width) return load<update_width>(from + piece.at, to);
  TESSERA_UNROLL
  for (int i = 0; i < update_width; ++i) to[i] = i < piece.size ? from[piece.at + i] : 0;
}

template <class Element>
__device__ inline void store_piece(Element* to, Piece piece, const float (&from)[update_width]) {
  if (piece.size == update_width) return store<update_width>(to + piece.at, from);
  TESSERA_UNROLL
  for (int i = 0; i < update_width; ++i)
    if (i < piece.size) to[piece.at + i] = static_cast<Element>(from[i]);
}
__device__ inline void store_piece(MasterAndCopy<bf16> to, Piece piece, const float (&from)[update_width]) {
  store_piece(to.master, piece, from);
  store_piece(to.copy, piece, from);
}

template <class Scalar>
__global__ void moving_average_kernel(index count, const double* m, const float* x, Parameter<Scalar> average) {
  const float keep = static_cast<float>(*m), take = static_cast<float>(1.0 - *m);
  for_pieces(count, [&](Piece piece) {
    float a[update_width], b[update_width];
    load_piece(average, piece, a);
    load_piece(x, piece, b);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) a[i] = keep * a[i] + take * b[i];
    store_piece(average, piece, a);
  });
}

template <class Low>
__global__ void copy_to_low_kernel(index count, MasterAndCopy<Low> values) {
  for_pieces(count, [&](Piece piece) {
    float value[update_width];
    load_piece(values.master, piece, value);
    store_piece(values.copy, piece, value);
  });
}

// *blocked is 0 before.
template <class Value>
__global__ void check_finite_kernel(index count, const Value* values, const double* loss, double* blocked) {
  bool finite = std::isfinite(*loss);
  for_pieces(count, [&](Piece piece) {
    Value value[update_width];
    load_piece(values, piece, value);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) finite = finite && std::isfinite(value[i]);
  });
  if (!finite) *blocked = 1;
}

// Adam's moments, in float.
struct AdamMoments {
  float beta1, other1, beta2, other2;

  __device__ explicit AdamMoments(const AdamCoefficients& c)
      : beta1(static_cast<float>(c.beta1)),
        other1(static_cast<float>(1.0 - c.beta1)),
        beta2(static_cast<float>(c.beta2)),
        other2(static_cast<float>(1.0 - c.beta2)) {}

  __device__ void move(float g, float& moment1, float& moment2) const {
    moment1 = beta1 * moment1 + other1 * g;
    moment2 = beta2 * moment2 + other2 * (g * g);
  }
};

template <class Scalar>
__global__ void adamw_kernel(index count, const AdamCoefficients* coefficients, const double* blocked,
                             const float* gradient, Parameter<Scalar> weight, float* moment1, float* moment2) {
  if (*blocked != 0) return;
  const AdamCoefficients& c = *coefficients;
  const AdamMoments moments(c);
  const float decay = static_cast<float>(1.0 - c.learning_rate * c.weight_decay);
  const float rate = static_cast<float>(c.learning_rate * c.correction1), epsilon = static_cast<float>(c.epsilon);
  const float inverse_bias = std::sqrt(static_cast<float>(c.correction2));
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width], m[update_width], v[update_width];
    load_piece(gradient, piece, g);
    load_piece(weight, piece, p);
    load_piece(moment1, piece, m);
    load_piece(moment2, piece, v);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) {
      moments.move(g[i], m[i], v[i]);
      p[i] = p[i] * decay - rate * m[i] / (std::sqrt(v[i]) * inverse_bias + epsilon);
    }
    store_piece(weight, piece, p);
    store_piece(moment1, piece, m);
    store_piece(moment2, piece, v);
  });
}

// Blocks that find a tensor's norms: all of them are on the device at the same time.
inline constexpr index norm_blocks = 512;
inline constexpr index norm_shared_bytes = warp_size * static_cast<index>(sizeof(double));

[[nodiscard]] inline int blocks_for_norms(index count) {
  const index blocks = divide_up(count, update_threads * update_width);
  return static_cast<int>(blocks < norm_blocks ? blocks : norm_blocks);
}

// The sum over the block's threads.
__device__ inline double sum_of_block(double value) {
  return block_sum(value, reinterpret_cast<double*>(shared_memory()));
}

// squares[block] = the sums over the block's threads of two tensors' squares.
struct Squares {
  double first, second;
};
__device__ inline void store_squares(double first, double second, Squares* squares) {
  first = sum_of_block(first);
  second = sum_of_block(second);
  if (threadIdx.x == 0) squares[blockIdx.x] = {first, second};
}

// factor |first| / |second| by the squares that `parts` blocks found, or 1 if either is zero.
__device__ inline double ratio_of_norms(int parts, const Squares* squares, double factor) {
  double first = 0, second = 0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += update_threads) {
    first += squares[part].first;
    second += squares[part].second;
  }
  first = sum_of_block(first);
  second = sum_of_block(second);
  return first > 0 && second > 0 ? factor * (std::sqrt(first) / std::sqrt(second)) : 1.0;
}

__device__ inline float square_of_piece(const float (&values)[update_width]) {
  float sum = 0;
  TESSERA_UNROLL
  for (int i = 0; i < update_width; ++i) sum += values[i] * values[i];
  return sum;
}

template <class Value>
__global__ void lamb_direction_kernel(index count, const AdamCoefficients* coefficients, const double* blocked,
                                      const Value* gradient, const Value* weight, Value* moment1, Value* moment2,
                                      Value* direction, Squares* squares) {
  if (*blocked != 0) return;
  const AdamCoefficients& c = *coefficients;
  const AdamMoments moments(c);
  const float decay = static_cast<float>(c.weight_decay), epsilon = static_cast<float>(c.epsilon);
  const float correction1 = static_cast<float>(c.correction1), correction2 = static_cast<float>(c.correction2);
  double weights = 0, directions = 0;
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width], m[update_width], v[update_width], d[update_width];
    load_piece(gradient, piece, g);
    load_piece(weight, piece, p);
    load_piece(moment1, piece, m);
    load_piece(moment2, piece, v);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) {
      moments.move(g[i], m[i], v[i]);
      d[i] = m[i] * correction1 / (std::sqrt(v[i] * correction2) + epsilon) + decay * p[i];
    }
    weights += static_cast<double>(square_of_piece(p));
    directions += static_cast<double>(square_of_piece(d));
    store_piece(moment1, piece, m);
    store_piece(moment2, piece, v);
    store_piece(direction, piece, d);
  });
  store_squares(weights, directions, squares);
}

template <class Scalar>
__global__ void lamb_kernel(index count, const AdamCoefficients* coefficients, const double* blocked,
                            const float* direction, Parameter<Scalar> weight, int parts, const Squares* squares) {
  if (*blocked != 0) return;
  const float rate = static_cast<float>(coefficients->learning_rate * ratio_of_norms(parts, squares, 1.0));
  for_pieces(count, [&](Piece piece) {
    float d[update_width], p[update_width];
    load_piece(direction, piece, d);
    load_piece(weight, piece, p);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) p[i] -= rate * d[i];
    store_piece(weight, piece, p);
  });
}

// Squares of the weights and of gradient + decay.
template <class Value>
__global__ void lars_squares_kernel(index count, const SgdCoefficients* c, const double* blocked, const Value* gradient,
                                    const Value* weight, Squares* squares) {
  if (*blocked != 0) return;
  const float decay = static_cast<float>(c->weight_decay);
  double weights = 0, updates = 0;
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width];
    load_piece(gradient, piece, g);
    load_piece(weight, piece, p);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) g[i] += decay * p[i];
    weights += static_cast<double>(square_of_piece(p));
    updates += static_cast<double>(square_of_piece(g));
  });
  store_squares(weights, updates, squares);
}

// Momentum SGD, with weight decay if `decays`, and with LARS's rate if there are parts of its norms.
template <class Scalar>
__global__ void momentum_kernel(index count, const SgdCoefficients* c, const double* blocked, bool decays, int parts,
                                const Squares* squares, const float* gradient, Parameter<Scalar> weight,
                                float* velocity) {
  if (*blocked != 0) return;
  const float rate = parts > 0 ? static_cast<float>(ratio_of_norms(parts, squares, c->trust)) : 1.0f;
  const float decay = decays ? static_cast<float>(c->weight_decay) : 0.0f;
  const float momentum = static_cast<float>(c->momentum), learning_rate = static_cast<float>(c->learning_rate);
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width], v[update_width];
    load_piece(gradient, piece, g);
    load_piece(weight, piece, p);
    load_piece(velocity, piece, v);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) {
      v[i] = momentum * v[i] + rate * (g[i] + decay * p[i]);
      p[i] -= learning_rate * v[i];
    }
    store_piece(weight, piece, p);
    store_piece(velocity, piece, v);
  });
}

// Some entries of a layout, as a kernel's argument: one launch for all of them.
struct EntryTable {
  static constexpr int entries = 64, parts = warp_size;
  index offset[entries], size[entries];
};

// parts[entry][block] = a sum of squares.
template <class Value>
__global__ void entry_squares_kernel(EntryTable table, const Value* values, double* parts) {
  double sum = 0;
  for_pieces(table.size[blockIdx.y], [&](Piece piece) {
    float value[update_width];
    load_piece(values + table.offset[blockIdx.y], piece, value);
    sum += static_cast<double>(square_of_piece(value));
  });
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) parts[static_cast<index>(blockIdx.y) * EntryTable::parts + blockIdx.x] = sum;
}

// squares[entry] = the sum of its parts, by a warp.
template <class Total>
__global__ void sum_parts_kernel(const double* parts, Total* squares) {
  const Total sum = warp_sum(parts[static_cast<index>(blockIdx.x) * EntryTable::parts + threadIdx.x]);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

}  // namespace detail

// average = *m average + (1 - *m) x, and its copy.
template <class Scalar>
void moving_average(Backend<Scalar>& backend, index count, const double* m, const Accumulator<Scalar>* x,
                    Parameter<Scalar> average) {
  launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
         detail::moving_average_kernel<Scalar>, count, m, x, average);
}

// The copy from the master values; nothing where there is none.
template <class Scalar>
void copy_to_low(Backend<Scalar>& backend, index count, Parameter<Scalar> values) {
  if constexpr (!std::is_pointer_v<Parameter<Scalar>>)
    launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
           detail::copy_to_low_kernel<Scalar>, count, values);
}

// *blocked = 1 if the loss or any of the values is not finite, else 0. What is blocked changes nothing: updates leave
// weights and states as they are.
template <class Scalar>
void check_finite(Backend<Scalar>& backend, index count, const Accumulator<Scalar>* values, const double* loss,
                  double* blocked) {
  constexpr int pieces = 4;
  const index some = count > 0 ? count : 1;  // the loss is looked at in any case
  backend.clear(1, blocked);
  launch(backend, blocks_for(some, detail::update_threads, pieces * detail::update_width), detail::update_threads, 0,
         detail::check_finite_kernel<Accumulator<Scalar>>, count, values, loss, blocked);
}

// AdamW, docs/method.md, 4.1: weights first decay by learning_rate * weight_decay.
template <class Scalar>
void adamw_update(Backend<Scalar>& backend, index count, const AdamCoefficients* coefficients, const double* blocked,
                  const Accumulator<Scalar>* gradient, Parameter<Scalar> weight, Accumulator<Scalar>* moment1,
                  Accumulator<Scalar>* moment2) {
  launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
         detail::adamw_kernel<Scalar>, count, coefficients, blocked, gradient, weight, moment1, moment2);
}

// LAMB for one tensor, docs/method.md, 4.4: Adam's bias-corrected direction + weight_decay * weight, scaled by
// |weight| / |direction|.
template <class Scalar>
void lamb_update(Backend<Scalar>& backend, index count, const AdamCoefficients* coefficients, const double* blocked,
                 const Accumulator<Scalar>* gradient, Parameter<Scalar> weight, Accumulator<Scalar>* moment1,
                 Accumulator<Scalar>* moment2, Accumulator<Scalar>* direction) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const int parts = detail::blocks_for_norms(count);
  auto* const squares = backend.arena().template take<detail::Squares>(parts);
  const dim3 grid(static_cast<unsigned>(parts));
  launch(backend, grid, detail::update_threads, detail::norm_shared_bytes,
         detail::lamb_direction_kernel<Accumulator<Scalar>>, count, coefficients, blocked, gradient, weight, moment1,
         moment2, direction, squares);
  launch(backend, grid, detail::update_threads, detail::norm_shared_bytes, detail::lamb_kernel<Scalar>, count,
         coefficients, blocked, direction, weight, parts, squares);
}

// Momentum SGD with coupled weight decay, docs/method.md, 4.2.
template <class Scalar>
void sgd_update(Backend<Scalar>& backend, index count, const SgdCoefficients* coefficients, const double* blocked,
                const Accumulator<Scalar>* gradient, Parameter<Scalar> weight, Accumulator<Scalar>* velocity) {
  launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
         detail::momentum_kernel<Scalar>, count, coefficients, blocked, true, 0, nullptr, gradient, weight, velocity);
}

// LARS for one tensor, docs/method.md, 4.3: a matrix decays, and its rate is trust * |weight| / |gradient + decay|;
// other tensors have neither.
template <class Scalar>
void lars_update(Backend<Scalar>& backend, index count, const SgdCoefficients* coefficients, const double* blocked,
                 bool matrix, const Accumulator<Scalar>* gradient, Parameter<Scalar> weight,
                 Accumulator<Scalar>* velocity) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const int parts = matrix ? detail::blocks_for_norms(count) : 0;
  auto* const squares = backend.arena().template take<detail::Squares>(parts);
  launch(backend, dim3(static_cast<unsigned>(parts)), detail::update_threads, detail::norm_shared_bytes,
         detail::lars_squares_kernel<Accumulator<Scalar>>, count, coefficients, blocked, gradient, weight, squares);
  const dim3 grid =
      matrix ? dim3(static_cast<unsigned>(parts)) : blocks_for(count, detail::update_threads, detail::update_width);
  launch(backend, grid, detail::update_threads, detail::norm_shared_bytes, detail::momentum_kernel<Scalar>, count,
         coefficients, blocked, matrix, parts, squares, gradient, weight, velocity);
}

// squares[i] = the sum of squares of entry i, 0 for statistics; in double, in a fixed order. squares is in memory of
// the backend.
template <class Scalar>
void squared_norms(Backend<Scalar>& backend, std::span<const Entry> entries, const Accumulator<Scalar>* values,
                   double* squares) {
  using detail::EntryTable;
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index count = static_cast<index>(entries.size());
  double* const parts = backend.arena().template take<double>(count * EntryTable::parts);
  for (index first = 0; first < count; first += EntryTable::entries) {
    const index some = count - first < EntryTable::entries ? count - first : EntryTable::entries;
    EntryTable table{};
    for (index i = 0; i < some; ++i) {
      const Entry& entry = entries[static_cast<std::size_t>(first + i)];
      if (entry.role == Role::statistic) continue;
      table.offset[i] = entry.offset;
      table.size[i] = entry.size();
    }
    launch(backend, dim3(EntryTable::parts, static_cast<unsigned>(some)), detail::update_threads,
           detail::norm_shared_bytes, detail::entry_squares_kernel<Accumulator<Scalar>>, table, values,
           parts + first * EntryTable::parts);
  }
  launch(backend, dim3(static_cast<unsigned>(count)), warp_size, 0, detail::sum_parts_kernel<double>, parts, squares);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
