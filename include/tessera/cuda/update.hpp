// Passes over flat buffers: moving averages, optimizer updates, norms. Bound by memory: 16 bytes to a load, and every
// value is read and written once (twice by LARS and LAMB, which need a norm first).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>

#include "tessera/core/layout.hpp"
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

// True if all values of the piece are finite; those behind its end do not count.
__device__ inline bool is_finite(Piece piece, const float (&values)[update_width]) {
  bool finite = true;
  TESSERA_UNROLL
  for (int i = 0; i < update_width; ++i) finite = finite && (i >= piece.size || std::isfinite(values[i]));
  return finite;
}

// Rule::update of all pieces, with the states of the sequence. `source`: the gradient, or the direction. *overflow = 1
// if a result is not finite.
template <class Rule, class Scalar, class Factors, std::size_t... moved>
__device__ inline void update_pieces(index count, const Factors& f, const float* source, Parameter<Scalar> weight,
                                     [[maybe_unused]] float* const* states, double* overflow,
                                     std::index_sequence<moved...>) {
  bool finite = true;
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width], s[sizeof...(moved) + 1][update_width];
    load_piece(source, piece, g);
    load_piece(weight, piece, p);
    (load_piece(states[moved], piece, s[moved]), ...);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) Rule::update(f, p[i], g[i], s[moved][i]...);
    store_piece(weight, piece, p);
    (store_piece(states[moved], piece, s[moved]), ...);
    finite = finite && (is_finite(piece, p) && ... && is_finite(piece, s[moved]));
  });
  if (!finite) *overflow = 1;
}

template <class Rule, class Scalar, class Group, std::size_t states>
__global__ void update_kernel(index count, const typename Rule::Coefficients* coefficients, Group group,
                              const double* blocked, double* overflow, const float* gradient, Parameter<Scalar> weight,
                              std::array<float*, states> state) {
  if (*blocked != 0) return;
  const auto f = Rule::template factors<float>(*coefficients, group);
  update_pieces<Rule, Scalar>(count, f, gradient, weight, state.data(), overflow, std::make_index_sequence<states>{});
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

// The sums of the squares that `parts` blocks found.
__device__ inline Squares sum_of_squares(int parts, const Squares* squares) {
  double first = 0, second = 0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += update_threads) {
    first += squares[part].first;
    second += squares[part].second;
  }
  return {sum_of_block(first), sum_of_block(second)};
}

__device__ inline float square_of_piece(const float (&values)[update_width]) {
  float sum = 0;
  TESSERA_UNROLL
  for (int i = 0; i < update_width; ++i) sum += values[i] * values[i];
  return sum;
}

// Rule::direction of all pieces, which moves the states of the sequence, if any, and is kept in the one behind;
// squares[block] = those of weight and direction. *overflow = 1 if a state is not finite then.
template <class Rule, class Factors, std::size_t... moved>
__device__ inline void find_direction(index count, const Factors& f, const float* gradient, const float* weight,
                                      [[maybe_unused]] float* const* states, [[maybe_unused]] double* overflow,
                                      Squares* squares, std::index_sequence<moved...>) {
  double weights = 0, directions = 0;
  bool finite = true;
  for_pieces(count, [&](Piece piece) {
    float g[update_width], p[update_width], d[update_width], s[sizeof...(moved) + 1][update_width];
    load_piece(gradient, piece, g);
    load_piece(weight, piece, p);
    (load_piece(states[moved], piece, s[moved]), ...);
    TESSERA_UNROLL
    for (int i = 0; i < update_width; ++i) d[i] = Rule::direction(f, p[i], g[i], s[moved][i]...);
    if (piece.size < update_width) {
      TESSERA_UNROLL
      for (int i = 0; i < update_width; ++i)
        if (i >= piece.size) d[i] = 0;
    }
    weights += static_cast<double>(square_of_piece(p));
    directions += static_cast<double>(square_of_piece(d));
    if constexpr (Rule::keeps_direction) {
      (store_piece(states[moved], piece, s[moved]), ...);
      store_piece(states[sizeof...(moved)], piece, d);
      finite = finite && (is_finite(piece, d) && ... && is_finite(piece, s[moved]));
    }
  });
  if (!finite) *overflow = 1;
  store_squares(weights, directions, squares);
}

template <class Rule, class Group, std::size_t states>
__global__ void direction_kernel(index count, const typename Rule::Coefficients* coefficients, Group group,
                                 const double* blocked, double* overflow, const float* gradient, const float* weight,
                                 std::array<float*, states> state, Squares* squares) {
  if (*blocked != 0) return;
  const auto f = Rule::template factors<float>(*coefficients, group, 1.0);
  find_direction<Rule>(count, f, gradient, weight, state.data(), overflow, squares,
                       std::make_index_sequence < Rule::keeps_direction ? states - 1 : 0 > {});
}

// parts: of the norms; 0 for a ratio of 1.
template <class Rule, class Scalar, class Group, std::size_t states>
__global__ void adapted_update_kernel(index count, const typename Rule::Coefficients* coefficients, Group group,
                                      const double* blocked, double* overflow, int parts, const Squares* squares,
                                      const float* gradient, Parameter<Scalar> weight,
                                      std::array<float*, states> state) {
  if (*blocked != 0) return;
  double ratio = 1;
  if (parts > 0) {
    const Squares sums = sum_of_squares(parts, squares);
    ratio = Rule::ratio(*coefficients, std::sqrt(sums.first), std::sqrt(sums.second));
  }
  const auto f = Rule::template factors<float>(*coefficients, group, ratio);
  if constexpr (Rule::keeps_direction)
    update_pieces<Rule, Scalar>(count, f, state[states - 1], weight, state.data(), overflow, std::index_sequence<>{});
  else
    update_pieces<Rule, Scalar>(count, f, gradient, weight, state.data(), overflow, std::make_index_sequence<states>{});
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

template <class Scalar>
void check_finite(Backend<Scalar>& backend, index count, const Accumulator<Scalar>* values, const double* loss,
                  double* blocked) {
  constexpr int pieces = 4;
  const index some = count > 0 ? count : 1;  // the loss is looked at in any case
  backend.clear(1, blocked);
  launch(backend, blocks_for(some, detail::update_threads, pieces * detail::update_width), detail::update_threads, 0,
         detail::check_finite_kernel<Accumulator<Scalar>>, count, values, loss, blocked);
}

template <class Rule, class Scalar, class Group, std::size_t states>
void update_elements(Backend<Scalar>& backend, index count, const typename Rule::Coefficients* coefficients,
                     const Group& group, const double* blocked, double* overflow, const Accumulator<Scalar>* gradient,
                     Parameter<Scalar> weight, const std::array<Accumulator<Scalar>*, states>& state) {
  launch(backend, blocks_for(count, detail::update_threads, detail::update_width), detail::update_threads, 0,
         detail::update_kernel<Rule, Scalar, Group, states>, count, coefficients, group, blocked, overflow, gradient,
         weight, state);
}

template <class Rule, class Scalar, class Group, std::size_t states>
void update_tensor(Backend<Scalar>& backend, index count, const typename Rule::Coefficients* coefficients,
                   const Group& group, bool adapts, const double* blocked, double* overflow,
                   const Accumulator<Scalar>* gradient, Parameter<Scalar> weight,
                   const std::array<Accumulator<Scalar>*, states>& state) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const int parts = adapts || Rule::keeps_direction ? detail::blocks_for_norms(count) : 0;
  auto* const squares = backend.arena().template take<detail::Squares>(parts);
  launch(backend, dim3(static_cast<unsigned>(parts)), detail::update_threads, detail::norm_shared_bytes,
         detail::direction_kernel<Rule, Group, states>, count, coefficients, group, blocked, overflow, gradient, weight,
         state, squares);
  const dim3 grid =
      parts > 0 ? dim3(static_cast<unsigned>(parts)) : blocks_for(count, detail::update_threads, detail::update_width);
  launch(backend, grid, detail::update_threads, detail::norm_shared_bytes,
         detail::adapted_update_kernel<Rule, Scalar, Group, states>, count, coefficients, group, blocked, overflow,
         adapts ? parts : 0, squares, gradient, weight, state);
}

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
