// Softmax attention, one head of one image at a time, without ever holding a tokens x tokens matrix.
#pragma once

#include <cmath>

#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// Small products of zero-padded matrices, specialised by shape. All loops over `rows` and `packs` unroll, so the
// accumulators stay in registers: sums[r][v] = sum over k of a[r * a_row + k * a_step] * b[k * b_row + v * lanes].
template <int rows, int packs, class Scalar>
[[gnu::always_inline]] inline void tile(index depth, const Scalar* a, index a_row, index a_step, const Scalar* b,
                                        index b_row, simd::Pack<Scalar> (&sums)[rows][packs]) {
  TESSERA_UNROLL
  for (int r = 0; r < rows; ++r) {
    TESSERA_UNROLL
    for (int v = 0; v < packs; ++v) sums[r][v] = simd::Pack<Scalar>{};
  }
  for (index k = 0; k < depth; ++k) {
    simd::Pack<Scalar> right[packs];
    TESSERA_UNROLL
    for (int v = 0; v < packs; ++v) right[v] = simd::load(b + k * b_row + v * simd::lanes<Scalar>);
    TESSERA_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Scalar left = a[r * a_row + k * a_step];
      TESSERA_UNROLL
      for (int v = 0; v < packs; ++v) sums[r][v] += left * right[v];
    }
  }
}

// Shapes of one head, and its operands copied into padded, aligned memory of a thread.
template <class Scalar, int tokens_, int width_, int heads_>
struct Head {
  static constexpr index tokens = tokens_, width = width_, heads = heads_, dim = width / heads;
  static constexpr index lanes = simd::lanes<Scalar>;
  static constexpr int dim_packs = static_cast<int>(divide_up(dim, lanes));
  static constexpr index padded_dim = dim_packs * lanes;
  static constexpr int query_rows = 6;  // queries that are worked on together
  static constexpr int key_packs = 2;   // packs of keys per register tile
  static constexpr index padded_tokens = divide_up(tokens, key_packs* lanes) * key_packs * lanes;
  static constexpr index padded_queries = divide_up(tokens, query_rows) * query_rows;
  static constexpr Scalar scale_of(double s) { return static_cast<Scalar>(s); }

  static constexpr index plain_size = padded_queries * padded_dim;  // a (tokens x dim) operand
  static constexpr index transposed_size = dim * padded_tokens;     // a (dim x tokens) operand
  static constexpr index scores_size = query_rows * padded_tokens;

  // to (padded_queries x padded_dim) = from (tokens x dim, rows `stride` apart) * scale, zero elsewhere.
  template <class Stored>
  static void copy(const Stored* from, index stride, Scalar scale, Scalar* to) {
    for (index token = 0; token < tokens; ++token) {
      if constexpr (padded_dim != dim)
        for (index j = dim; j < padded_dim; ++j) to[token * padded_dim + j] = 0;
      simd::transform(
          dim, to + token * padded_dim, [scale](auto a) { return a * scale; }, from + token * stride);
    }
    for (index i = tokens * padded_dim; i < plain_size; ++i) to[i] = 0;
  }

  // to (dim x padded_tokens) = transpose of from, zero elsewhere.
  template <class Stored>
  static void transpose(const Stored* from, index stride, Scalar* to) {
    constexpr index block = 8;
    for (index first = 0; first < tokens; first += block)
      for (index j = 0; j < dim; ++j)
        for (index token = first; token < first + block && token < tokens; ++token)
          to[j * padded_tokens + token] = static_cast<Scalar>(from[token * stride + j]);
    for (index j = 0; j < dim; ++j)
      for (index token = tokens; token < padded_tokens; ++token) to[j * padded_tokens + token] = 0;
  }

  // scores (query_rows x padded_tokens) = a (query_rows x dim) b (dim x padded_tokens).
  static void multiply_transposed(const Scalar* a, const Scalar* b, Scalar* scores) {
    for (index column = 0; column < padded_tokens; column += key_packs * lanes) {
      simd::Pack<Scalar> sums[query_rows][key_packs];
      tile<query_rows, key_packs>(dim, a, padded_dim, 1, b + column, padded_tokens, sums);
      for (int r = 0; r < query_rows; ++r)
        for (int v = 0; v < key_packs; ++v) simd::store(scores + r * padded_tokens + column + v * lanes, sums[r][v]);
    }
  }

  // to (query_rows x dim, rows `stride` apart, `valid` of them) = scale * scores (query_rows x tokens) b (tokens x
  // dim).
  template <class Stored>
  static void multiply(const Scalar* scores, const Scalar* b, const Scalar* scale, index valid, Stored* to,
                       index stride) {
    constexpr int step = dim_packs < 2 ? 1 : 2;
    for (int first = 0; first < dim_packs; first += step) {
      if (first + step <= dim_packs)
        multiply_part<step>(scores, b, scale, valid, first, to, stride);
      else
        multiply_part<1>(scores, b, scale, valid, first, to, stride);
    }
  }

  // to (tokens x padded_dim) += scores^T (tokens x query_rows) a (query_rows x padded_dim).
  static void add_transposed(const Scalar* scores, const Scalar* a, Scalar* to) {
    for (int v = 0; v < dim_packs; ++v) {
      simd::Pack<Scalar> left[query_rows];
      TESSERA_UNROLL
      for (int r = 0; r < query_rows; ++r) left[r] = simd::load(a + r * padded_dim + v * lanes);
      for (index token = 0; token < tokens; ++token) {
        Scalar* const at = to + token * padded_dim + v * lanes;
        simd::Pack<Scalar> even = simd::load(at), odd{};
        TESSERA_UNROLL
        for (int r = 0; r < query_rows; r += 2) {
          even += scores[r * padded_tokens + token] * left[r];
          odd += scores[(r + 1) * padded_tokens + token] * left[r + 1];
        }
        simd::store(at, even + odd);
      }
    }
  }

 private:
  template <int packs, class Stored>
  static void multiply_part(const Scalar* scores, const Scalar* b, const Scalar* scale, index valid, int first,
                            Stored* to, index stride) {
    simd::Pack<Scalar> sums[query_rows][packs];
    tile<query_rows, packs>(tokens, scores, padded_tokens, 1, b + first * lanes, padded_dim, sums);
    for (index r = 0; r < valid; ++r)
      for (int v = 0; v < packs; ++v) {
        const index column = (first + v) * lanes, count = dim - column < lanes ? dim - column : lanes;
        const simd::Pack<Scalar> value = sums[r][v] * scale[r];
        if (count == lanes)
          simd::store<Stored>(to + r * stride + column, value);
        else
          simd::store_part<Stored>(to + r * stride + column, value, count);
      }
  }
};

// Replaces a row of scores by exp(score - shift), zero beyond `tokens`; returns their sum.
template <class Shape, class Scalar>
Scalar exponentiate(Scalar* scores, Scalar shift) {
  simd::Pack<Scalar> sum{};
  constexpr index lanes = simd::lanes<Scalar>, whole = Shape::tokens / lanes * lanes;
  index i = 0;
  for (; i < whole; i += lanes) {
    const simd::Pack<Scalar> e = math::exp<simd::Pack<Scalar>>(simd::load(scores + i) - shift);
    sum += e;
    simd::store(scores + i, e);
  }
  if constexpr (whole < Shape::tokens) {
    const simd::Pack<Scalar> e = math::exp<simd::Pack<Scalar>>(simd::load(scores + i) - shift);
    simd::store(scores + i, simd::Pack<Scalar>{});
    simd::store_part(scores + i, e, Shape::tokens - whole);
    sum += simd::load(scores + i);
    i += lanes;
  }
  for (; i < Shape::padded_tokens; i += lanes) simd::store(scores + i, simd::Pack<Scalar>{});
  return simd::sum<Scalar>(sum);
}

template <class Shape, class Scalar>
Scalar largest_score(const Scalar* scores) {
  constexpr index lanes = simd::lanes<Scalar>, whole = Shape::tokens / lanes * lanes;
  Scalar best = scores[0];
  if constexpr (whole > 0) {
    simd::Pack<Scalar> most = simd::load(scores);
    for (index i = lanes; i < whole; i += lanes) most = simd::larger<Scalar>(most, simd::load(scores + i));
    best = simd::largest<Scalar>(most);
  }
  for (index i = whole; i < Shape::tokens; ++i) best = best > scores[i] ? best : scores[i];
  return best;
}

// Calls body(image, head, scratch) for every head of every image, in parallel; scratch: `size` sums of the thread.
template <int heads, class Scalar, class Matmul, class Body>
void for_heads(Backend<Scalar, Matmul>& backend, index images, index size, Body&& body) {
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  using Sum = Accumulator<Scalar>;
  Sum* const scratch = backend.arena().template take<Sum>(size * backend.pool().threads());
  backend.for_pieces(images * heads, heads, [&](index first, index last, int worker) {
    for (index task = first; task < last; ++task) body(task / heads, task % heads, scratch + worker * size);
  });
}

}  // namespace detail

template <int tokens, int heads, class Scalar, class Matmul, int width>
void attention_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out,
                       Rows<Accumulator<Scalar>, tokens> log_sums) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Sum, tokens, width, heads>;
  const Sum scale = static_cast<Sum>(1.0 / std::sqrt(static_cast<double>(Shape::dim)));
  const index size = 2 * Shape::plain_size + Shape::transposed_size + Shape::scores_size;
  detail::for_heads<heads>(backend, qkv.rows / tokens, size, [&](index image, index head, Sum* scratch) {
    const Scalar* const from = qkv.row(image * tokens) + head * Shape::dim;
    Sum* const q = scratch;
    Sum* const v = q + Shape::plain_size;
    Sum* const k = v + Shape::plain_size;
    Sum* const scores = k + Shape::transposed_size;
    Shape::copy(from, 3 * width, scale, q);
    Shape::transpose(from + width, 3 * width, k);
    Shape::copy(from + 2 * width, 3 * width, Sum(1), v);
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      const index valid = tokens - query < Shape::query_rows ? tokens - query : Shape::query_rows;
      Sum inverse[Shape::query_rows];
      Shape::multiply_transposed(q + query * Shape::padded_dim, k, scores);
      for (index r = 0; r < valid; ++r) {
        Sum* const row = scores + r * Shape::padded_tokens;
        const Sum shift = detail::largest_score<Shape>(row);
        const Sum sum = detail::exponentiate<Shape>(row, shift);
        inverse[r] = Sum(1) / sum;
        log_sums.row(image * heads + head)[query + r] = shift + std::log(sum);
      }
      Shape::multiply(scores, v, inverse, valid, out.row(image * tokens + query) + head * Shape::dim, width);
    }
  });
}

template <int tokens, int heads, class Scalar, class Matmul, int width>
void attention_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv,
                        Rows<const Scalar, width> out, Rows<const Accumulator<Scalar>, tokens> log_sums,
                        Rows<const Scalar, width> d_out, Rows<Scalar, 3 * width> d_qkv) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Sum, tokens, width, heads>;
  constexpr index lanes = simd::lanes<Sum>;
  const Sum scale = static_cast<Sum>(1.0 / std::sqrt(static_cast<double>(Shape::dim)));
  const index size = 5 * Shape::plain_size + 2 * Shape::transposed_size + 2 * Shape::scores_size;
  detail::for_heads<heads>(backend, qkv.rows / tokens, size, [&](index image, index head, Sum* scratch) {
    const index at = head * Shape::dim;
    const Scalar* const from = qkv.row(image * tokens) + at;
    Scalar* const to = d_qkv.row(image * tokens) + at;
    Sum* const q = scratch;
    Sum* const k = q + Shape::plain_size;
    Sum* const gradient = k + Shape::plain_size;
    Sum* const d_k = gradient + Shape::plain_size;
    Sum* const d_v = d_k + Shape::plain_size;
    Sum* const k_transposed = d_v + Shape::plain_size;
    Sum* const v_transposed = k_transposed + Shape::transposed_size;
    Sum* const weights = v_transposed + Shape::transposed_size;
    Sum* const d_scores = weights + Shape::scores_size;
    Shape::copy(from, 3 * width, scale, q);
    Shape::copy(from + width, 3 * width, Sum(1), k);
    Shape::copy(d_out.row(image * tokens) + at, width, Sum(1), gradient);
    Shape::transpose(from + width, 3 * width, k_transposed);
    Shape::transpose(from + 2 * width, 3 * width, v_transposed);
    std::memset(d_k, 0, 2 * Shape::plain_size * sizeof(Sum));
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      const index valid = tokens - query < Shape::query_rows ? tokens - query : Shape::query_rows;
      Sum scales[Shape::query_rows];
      Shape::multiply_transposed(q + query * Shape::padded_dim, k_transposed, weights);
      Shape::multiply_transposed(gradient + query * Shape::padded_dim, v_transposed, d_scores);
      for (index r = 0; r < Shape::query_rows; ++r) {
        Sum* const row = weights + r * Shape::padded_tokens;
        Sum* const d_row = d_scores + r * Shape::padded_tokens;
        scales[r] = scale;
        if (r >= valid) {
          std::memset(row, 0, Shape::padded_tokens * sizeof(Sum));
          std::memset(d_row, 0, Shape::padded_tokens * sizeof(Sum));
          continue;
        }
        const index token = image * tokens + query + r;
        detail::exponentiate<Shape>(row, log_sums.row(image * heads + head)[query + r]);
        const Sum along = simd::reduce(
            Shape::dim, [](auto a, auto b) { return a * b; }, d_out.row(token) + at, out.row(token) + at);
        for (index i = 0; i < Shape::padded_tokens; i += lanes)
          simd::store<Sum>(d_row + i, simd::load(row + i) * (simd::load(d_row + i) - along));
      }
      Shape::multiply(d_scores, k, scales, valid, to + query * 3 * width, 3 * width);
      Shape::add_transposed(d_scores, q + query * Shape::padded_dim, d_k);
      Shape::add_transposed(weights, gradient + query * Shape::padded_dim, d_v);
    }
    const auto copy = [](auto a) { return a; };
    for (index token = 0; token < tokens; ++token) {
      simd::transform(Shape::dim, to + token * 3 * width + width, copy, d_k + token * Shape::padded_dim);
      simd::transform(Shape::dim, to + token * 3 * width + 2 * width, copy, d_v + token * Shape::padded_dim);
    }
  });
}

template <int tokens, int heads, int width, class Scalar, class Matmul>
void attention_weights(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv,
                       Rows<Scalar, tokens> weights) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Sum, tokens, width, heads>;
  const Sum scale = static_cast<Sum>(1.0 / std::sqrt(static_cast<double>(Shape::dim)));
  const index size = Shape::plain_size + Shape::transposed_size + Shape::scores_size;
  detail::for_heads<heads>(backend, qkv.rows / tokens, size, [&](index image, index head, Sum* scratch) {
    const Scalar* const from = qkv.row(image * tokens) + head * Shape::dim;
    Sum* const k = scratch + Shape::plain_size;
    Sum* const scores = k + Shape::transposed_size;
    Shape::copy(from, 3 * width, scale, scratch);
    Shape::transpose(from + width, 3 * width, k);
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      Shape::multiply_transposed(scratch + query * Shape::padded_dim, k, scores);
      for (index r = 0; r < Shape::query_rows && query + r < tokens; ++r) {
        Sum* const row = scores + r * Shape::padded_tokens;
        const Sum inverse = Sum(1) / detail::exponentiate<Shape>(row, detail::largest_score<Shape>(row));
        simd::transform(
            index{tokens}, weights.row((image * heads + head) * tokens + query + r),
            [inverse](auto a) { return a * inverse; }, row);
      }
    }
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
