// Softmax attention, one head of one image at a time, without ever holding a tokens x tokens matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/words.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

// Small products of zero-padded matrices, specialised by shape. All loops over `rows` and `packs` unroll, so the
// accumulators stay in registers: sums[r][v] = sum over words k of a[r * a_row + k * word] * b[k * b_row + v * lanes *
// word].
template <int rows, int packs, class Scalar>
[[gnu::always_inline]] inline void tile(index depth, const Scalar* a, index a_row, const Scalar* b, index b_row,
                                        simd::Pack<Scalar> (&sums)[rows][packs]) {
  constexpr index word = Words<Scalar>::scalars;
  TESSERA_UNROLL
  for (int r = 0; r < rows; ++r) {
    TESSERA_UNROLL
    for (int v = 0; v < packs; ++v) sums[r][v] = simd::Pack<Scalar>{};
  }
  for (index k = 0; k < depth; ++k) {
    typename Words<Scalar>::Pack right[packs];
    TESSERA_UNROLL
    for (int v = 0; v < packs; ++v) Words<Scalar>::read(b + k * b_row + v * simd::lanes<Scalar> * word, right[v]);
    TESSERA_UNROLL
    for (int r = 0; r < rows; ++r) {
      typename Words<Scalar>::Word left;
      Words<Scalar>::read(a + r * a_row + k * word, left);
      TESSERA_UNROLL
      for (int v = 0; v < packs; ++v) Words<Scalar>::add_product(sums[r][v], left, right[v]);
    }
  }
}

// Shapes of one head, and its operands copied into padded, aligned memory of a thread.
template <class Scalar, int tokens_, int width_, int heads_>
struct Head {
  using Element = Scalar;
  using Sum = Accumulator<Scalar>;
  static constexpr index tokens = tokens_, width = width_, heads = heads_, dim = width / heads;
  static constexpr index lanes = simd::lanes<Scalar>, word = Words<Scalar>::scalars;
  static constexpr int dim_packs = static_cast<int>(divide_up(dim, lanes));
  static constexpr index padded_dim = dim_packs * lanes;
  static constexpr int query_rows = 6;  // queries that are worked on together; whole words
  static constexpr int key_packs = 2;   // packs of keys per register tile
  static constexpr index padded_tokens = divide_up(tokens, key_packs* lanes) * key_packs * lanes;
  static constexpr index padded_queries = divide_up(tokens, query_rows) * query_rows;

  static constexpr index plain_size = padded_queries * padded_dim;                       // a (tokens x dim) operand
  static constexpr index transposed_size = divide_up(dim, word) * word * padded_tokens;  // a (dim x tokens) operand
  static constexpr index scores_size = query_rows * padded_tokens;

  // Scores are q k^T times this. Queries of bf16 are not scaled themselves, which would round them once more.
  static constexpr bool scales_queries = word == 1;
  [[nodiscard]] static Sum scale() { return static_cast<Sum>(1.0 / std::sqrt(static_cast<double>(dim))); }
  [[nodiscard]] static Sum query_scale() { return scales_queries ? scale() : Sum(1); }
  [[nodiscard]] static Sum score_scale() { return scales_queries ? Sum(1) : scale(); }

  // to (padded_queries x padded_dim) = from (tokens x dim, rows `stride` apart) * scale, zero elsewhere.
  static void copy(const Scalar* from, index stride, Sum scale, Scalar* to) {
    for (index token = 0; token < tokens; ++token) {
      if constexpr (padded_dim != dim) std::fill_n(to + token * padded_dim + dim, padded_dim - dim, Scalar{});
      simd::transform(
          dim, to + token * padded_dim, [scale](auto a) { return a * scale; }, from + token * stride);
    }
    std::fill_n(to + tokens * padded_dim, plain_size - tokens * padded_dim, Scalar{});
  }

  // The words along the tokens of what copy() has made, one line after the other: to[t / word][dim][t % word].
  static void along_tokens(const Scalar* plain, Scalar* to) {
    if constexpr (word == 2)
      for (index token = 0; token < padded_queries; token += word)
        interleave<static_cast<int>(lanes)>(padded_dim, plain + token * padded_dim, plain + (token + 1) * padded_dim,
                                            to + token * padded_dim);
  }

  // to (dim x padded_tokens) = transpose of from, word by word along dim, zero elsewhere.
  static void transpose(const Scalar* from, index stride, Scalar* to) {
    constexpr index block = 8, line = padded_tokens * word;
    if constexpr (dim % word != 0) std::fill_n(to, transposed_size, Scalar{});
    for (index first = 0; first < tokens; first += block)
      for (index j = 0; j < dim; j += word)
        for (index token = first; token < first + block && token < tokens; ++token)
          std::memcpy(static_cast<void*>(to + j / word * line + token * word), from + token * stride + j,
                      static_cast<std::size_t>(smaller(word, dim - j)) * sizeof(Scalar));
    for (index j = 0; j < dim; j += word)
      std::fill_n(to + j / word * line + tokens * word, (padded_tokens - tokens) * word, Scalar{});
  }

  // scores (query_rows x padded_tokens) = a (query_rows x dim) b (dim x padded_tokens).
  static void multiply_transposed(const Scalar* a, const Scalar* b, Sum* scores) {
    for (index column = 0; column < padded_tokens; column += key_packs * lanes) {
      simd::Pack<Scalar> sums[query_rows][key_packs];
      tile<query_rows, key_packs>(divide_up(dim, word), a, padded_dim, b + column * word, padded_tokens * word, sums);
      for (int r = 0; r < query_rows; ++r)
        for (int v = 0; v < key_packs; ++v)
          simd::store<Sum>(scores + r * padded_tokens + column + v * lanes, sums[r][v]);
    }
  }

  // to (query_rows x dim, rows `stride` apart, `valid` of them) = scale * weights (query_rows x tokens) b (tokens x
  // dim, in words along the tokens).
  static void multiply(const Scalar* weights, const Scalar* b, const Sum* scale, index valid, Scalar* to,
                       index stride) {
    constexpr int step = dim_packs < 2 ? 1 : 2;
    for (int first = 0; first < dim_packs; first += step) {
      if (first + step <= dim_packs)
        multiply_part<step>(weights, b, scale, valid, first, to, stride);
      else
        multiply_part<1>(weights, b, scale, valid, first, to, stride);
    }
  }

  // to (tokens x padded_dim) += weights^T (tokens x query_rows) a (query_rows x padded_dim), both in words along the
  // queries.
  static void add_transposed(const Scalar* weights, const Scalar* a, Sum* to) {
    constexpr int words = query_rows / static_cast<int>(word);
    for (int v = 0; v < dim_packs; ++v) {
      typename Words<Scalar>::Pack left[words];
      TESSERA_UNROLL
      for (int r = 0; r < words; ++r) Words<Scalar>::read(a + (r * padded_dim + v * lanes) * word, left[r]);
      for (index token = 0; token < tokens; ++token) {
        Sum* const at = to + token * padded_dim + v * lanes;
        simd::Pack<Scalar> sums[2] = {simd::load(at), {}};
        TESSERA_UNROLL
        for (int r = 0; r < words; ++r) {
          typename Words<Scalar>::Word weight;
          Words<Scalar>::read(weights + (r * padded_tokens + token) * word, weight);
          Words<Scalar>::add_product(sums[r % 2], weight, left[r]);
        }
        simd::store<Sum>(at, sums[0] + sums[1]);
      }
    }
  }

 private:
  template <int packs>
  static void multiply_part(const Scalar* weights, const Scalar* b, const Sum* scale, index valid, int first,
                            Scalar* to, index stride) {
    simd::Pack<Scalar> sums[query_rows][packs];
    tile<query_rows, packs>(divide_up(tokens, word), weights, padded_tokens, b + first * lanes * word,
                            padded_dim * word, sums);
    for (index r = 0; r < valid; ++r)
      for (int v = 0; v < packs; ++v) {
        const index column = (first + v) * lanes, count = dim - column < lanes ? dim - column : lanes;
        const simd::Pack<Scalar> value = sums[r][v] * scale[r];
        if (count == lanes)
          simd::store<Scalar>(to + r * stride + column, value);
        else
          simd::store_part<Scalar>(to + r * stride + column, value, count);
      }
  }
};

// to = exp(scale * score - shift) of a row of scores, zero beyond `tokens`; returns their sum. to may be the scores.
template <class Shape, class Stored, class Sum = typename Shape::Sum>
Sum exponentiate(const Sum* scores, Sum scale, Sum shift, Stored* to) {
  simd::Pack<Sum> sum{};
  constexpr index lanes = simd::lanes<Sum>, whole = Shape::tokens / lanes * lanes;
  const auto weight = [&](index i) { return math::exp<simd::Pack<Sum>>(simd::load(scores + i) * scale - shift); };
  index i = 0;
  for (; i < whole; i += lanes) {
    const simd::Pack<Sum> e = weight(i);
    sum += e;
    simd::store<Stored>(to + i, e);
  }
  if constexpr (whole < Shape::tokens) {
    Sum last[lanes]{};
    simd::store_part<Sum>(last, weight(i), Shape::tokens - whole);
    const simd::Pack<Sum> e = simd::load(static_cast<const Sum*>(last));
    sum += e;
    simd::store<Stored>(to + i, e);
    i += lanes;
  }
  for (; i < Shape::padded_tokens; i += lanes) simd::store<Stored>(to + i, simd::Pack<Sum>{});
  return simd::sum<Sum>(sum);
}

template <class Shape, class Sum = typename Shape::Sum>
Sum largest_score(const Sum* scores) {
  constexpr index lanes = simd::lanes<Sum>, whole = Shape::tokens / lanes * lanes;
  Sum best = scores[0];
  if constexpr (whole > 0) {
    simd::Pack<Sum> most = simd::load(scores);
    for (index i = lanes; i < whole; i += lanes) most = simd::larger<Sum>(most, simd::load(scores + i));
    best = simd::largest<Sum>(most);
  }
  for (index i = whole; i < Shape::tokens; ++i) best = best > scores[i] ? best : scores[i];
  return best;
}

// The factors of the backward pass as products read them, in words along the tokens or the queries. Where a word is one
// scalar they are what they are made of.
template <class Shape>
class BackwardFactors {
 public:
  using Scalar = typename Shape::Element;
  using Sum = typename Shape::Sum;
  static constexpr index size = Shape::word == 1 ? 0 : 3 * Shape::plain_size + 3 * Shape::scores_size;

  const Scalar *q, *k, *gradient;                                 // (tokens x dim)
  const Scalar *d_scores, *d_scores_by_query, *weights_by_query;  // (query_rows x tokens)

  // Takes operands that copy() has made, and scores that change with each block of queries; room: `size` scalars.
  BackwardFactors(const Scalar* plain_q, const Scalar* plain_k, const Scalar* plain_gradient, const Sum* weights,
                  const Sum* gradient_of_scores, Scalar* room)
      : weights_(weights), gradient_of_scores_(gradient_of_scores), room_(room) {
    if constexpr (Shape::word == 1) {
      q = plain_q;
      k = plain_k;
      gradient = plain_gradient;
      d_scores = d_scores_by_query = gradient_of_scores;
      weights_by_query = weights;
    } else {
      q = in_words(plain_q, 0);
      k = in_words(plain_k, 1);
      gradient = in_words(plain_gradient, 2);
      d_scores = scores(0);
      d_scores_by_query = scores(1);
      weights_by_query = scores(2);
    }
  }

  // Rounds the scores of a block of queries.
  void round_scores() const {
    if constexpr (Shape::word == 2) {
      for (index r = 0; r < Shape::query_rows; r += 2) {
        alignas(simd::bytes) Scalar rounded[2 * Shape::padded_tokens];
        const auto as_it_is = [](auto a) { return a; };
        const index at = r * Shape::padded_tokens, count = 2 * Shape::padded_tokens;
        simd::transform(count, scores(0) + at, as_it_is, gradient_of_scores_ + at);
        simd::transform(count, rounded, as_it_is, weights_ + at);
        pair(scores(0) + at, scores(1) + at);
        pair(rounded, scores(2) + at);
      }
    }
  }

 private:
  // Two rows of scores, word by word.
  static void pair(const Scalar* rows, Scalar* to) {
    interleave<static_cast<int>(Shape::lanes)>(Shape::padded_tokens, rows, rows + Shape::padded_tokens, to);
  }
  [[nodiscard]] Scalar* scores(index which) const { return room_ + 3 * Shape::plain_size + which * Shape::scores_size; }
  [[nodiscard]] const Scalar* in_words(const Scalar* plain, index which) const {
    Scalar* const to = room_ + which * Shape::plain_size;
    Shape::along_tokens(plain, to);
    return to;
  }

  const Sum *weights_, *gradient_of_scores_;
  Scalar* room_;
};

// Calls body(image, head, sums, scalars) for every head of every image, in parallel; sums and scalars: so many of the
// thread's own.
template <int heads, class Scalar, class Matmul, class Body>
void for_heads(Backend<Scalar, Matmul>& backend, index images, index sum_count, index scalar_count, Body&& body) {
  using Sum = Accumulator<Scalar>;
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  Sum* const sums = backend.arena().template take<Sum>(sum_count * backend.pool().threads());
  Scalar* const scalars = backend.arena().template take<Scalar>(scalar_count * backend.pool().threads());
  backend.for_pieces(images * heads, heads, [&](index first, index last, int worker) {
    for (index task = first; task < last; ++task)
      body(task / heads, task % heads, sums + worker * sum_count, scalars + worker * scalar_count);
  });
}

}  // namespace detail

template <int tokens, int heads, class Scalar, class Matmul, int width>
void attention_forward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out,
                       Rows<Accumulator<Scalar>, tokens> log_sums) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Scalar, tokens, width, heads>;
  const auto attend = [&](index image, index head, Sum* scores, Scalar* scalars) {
    const Scalar* const from = qkv.row(image * tokens) + head * Shape::dim;
    Scalar* const q = scalars;
    Scalar* const k = q + Shape::plain_size;
    Scalar* const weights = k + Shape::transposed_size;
    Scalar* const plain_v = weights + Shape::scores_size;
    Scalar* const v = Shape::word == 1 ? plain_v : plain_v + Shape::plain_size;
    Shape::copy(from, 3 * width, Shape::query_scale(), q);
    Shape::transpose(from + width, 3 * width, k);
    Shape::copy(from + 2 * width, 3 * width, Sum(1), plain_v);
    Shape::along_tokens(plain_v, v);
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      const index valid = tokens - query < Shape::query_rows ? tokens - query : Shape::query_rows;
      Sum inverse[Shape::query_rows];
      Shape::multiply_transposed(q + query * Shape::padded_dim, k, scores);
      for (index r = 0; r < valid; ++r) {
        const Sum* const row = scores + r * Shape::padded_tokens;
        const Sum shift = detail::largest_score<Shape>(row) * Shape::score_scale();
        const Sum sum =
            detail::exponentiate<Shape>(row, Shape::score_scale(), shift, weights + r * Shape::padded_tokens);
        inverse[r] = Sum(1) / sum;
        log_sums.row(image * heads + head)[query + r] = shift + std::log(sum);
      }
      Shape::multiply(weights, v, inverse, valid, out.row(image * tokens + query) + head * Shape::dim, width);
    }
  };
  detail::for_heads<heads>(backend, qkv.rows / tokens, Shape::scores_size,
                           3 * Shape::plain_size + Shape::transposed_size + Shape::scores_size, attend);
}

template <int tokens, int heads, class Scalar, class Matmul, int width>
void attention_backward(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv,
                        Rows<const Scalar, width> out, Rows<const Accumulator<Scalar>, tokens> log_sums,
                        Rows<const Scalar, width> d_out, Rows<Scalar, 3 * width> d_qkv) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Scalar, tokens, width, heads>;
  constexpr index lanes = simd::lanes<Sum>;
  const auto differentiate = [&](index image, index head, Sum* sums, Scalar* scalars) {
    const index at = head * Shape::dim;
    const Scalar* const from = qkv.row(image * tokens) + at;
    Scalar* const to = d_qkv.row(image * tokens) + at;
    Sum* const weights = sums;
    Sum* const d_scores = weights + Shape::scores_size;
    Sum* const d_k = d_scores + Shape::scores_size;
    Sum* const d_v = d_k + Shape::plain_size;
    Scalar* const q = scalars;
    Scalar* const k = q + Shape::plain_size;
    Scalar* const gradient = k + Shape::plain_size;
    Scalar* const k_transposed = gradient + Shape::plain_size;
    Scalar* const v_transposed = k_transposed + Shape::transposed_size;
    Shape::copy(from, 3 * width, Shape::query_scale(), q);
    Shape::copy(from + width, 3 * width, Sum(1), k);
    Shape::copy(d_out.row(image * tokens) + at, width, Sum(1), gradient);
    Shape::transpose(from + width, 3 * width, k_transposed);
    Shape::transpose(from + 2 * width, 3 * width, v_transposed);
    const detail::BackwardFactors<Shape> factors(q, k, gradient, weights, d_scores,
                                                 v_transposed + Shape::transposed_size);
    std::fill_n(d_k, 2 * Shape::plain_size, Sum(0));
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      const index valid = tokens - query < Shape::query_rows ? tokens - query : Shape::query_rows;
      Sum scales[Shape::query_rows];
      Shape::multiply_transposed(q + query * Shape::padded_dim, k_transposed, weights);
      Shape::multiply_transposed(gradient + query * Shape::padded_dim, v_transposed, d_scores);
      for (index r = 0; r < Shape::query_rows; ++r) {
        Sum* const row = weights + r * Shape::padded_tokens;
        Sum* const d_row = d_scores + r * Shape::padded_tokens;
        scales[r] = Shape::scale();
        if (r >= valid) {
          std::fill_n(row, Shape::padded_tokens, Sum(0));
          std::fill_n(d_row, Shape::padded_tokens, Sum(0));
          continue;
        }
        const index token = image * tokens + query + r;
        detail::exponentiate<Shape>(row, Shape::score_scale(), log_sums.row(image * heads + head)[query + r], row);
        const Sum along = simd::reduce(
            Shape::dim, [](auto a, auto b) { return a * b; }, d_out.row(token) + at, out.row(token) + at);
        for (index i = 0; i < Shape::padded_tokens; i += lanes)
          simd::store<Sum>(d_row + i, simd::load(row + i) * (simd::load(d_row + i) - along));
      }
      factors.round_scores();
      Shape::multiply(factors.d_scores, factors.k, scales, valid, to + query * 3 * width, 3 * width);
      Shape::add_transposed(factors.d_scores_by_query, factors.q + query * Shape::padded_dim, d_k);
      Shape::add_transposed(factors.weights_by_query, factors.gradient + query * Shape::padded_dim, d_v);
    }
    const auto write = [&](Sum scale, const Sum* sum, Scalar* where) {
      for (index token = 0; token < tokens; ++token)
        simd::transform(
            Shape::dim, where + token * 3 * width, [scale](auto a) { return a * scale; },
            sum + token * Shape::padded_dim);
    };
    write(Shape::score_scale(), d_k, to + width);
    write(Sum(1), d_v, to + 2 * width);
  };
  detail::for_heads<heads>(backend, qkv.rows / tokens, 2 * Shape::plain_size + 2 * Shape::scores_size,
                           3 * Shape::plain_size + 2 * Shape::transposed_size + detail::BackwardFactors<Shape>::size,
                           differentiate);
}

template <int tokens, int heads, int width, class Scalar, class Matmul>
void attention_weights(Backend<Scalar, Matmul>& backend, Rows<const Scalar, 3 * width> qkv,
                       Rows<Scalar, tokens> weights) {
  using Sum = Accumulator<Scalar>;
  using Shape = detail::Head<Scalar, tokens, width, heads>;
  const auto find = [&](index image, index head, Sum* scores, Scalar* scalars) {
    const Scalar* const from = qkv.row(image * tokens) + head * Shape::dim;
    Scalar* const q = scalars;
    Scalar* const k = q + Shape::plain_size;
    Shape::copy(from, 3 * width, Shape::query_scale(), q);
    Shape::transpose(from + width, 3 * width, k);
    for (index query = 0; query < tokens; query += Shape::query_rows) {
      Shape::multiply_transposed(q + query * Shape::padded_dim, k, scores);
      for (index r = 0; r < Shape::query_rows && query + r < tokens; ++r) {
        Sum* const row = scores + r * Shape::padded_tokens;
        const Sum shift = detail::largest_score<Shape>(row) * Shape::score_scale();
        const Sum inverse = Sum(1) / detail::exponentiate<Shape>(row, Shape::score_scale(), shift, row);
        simd::transform(
            index{tokens}, weights.row((image * heads + head) * tokens + query + r),
            [inverse](auto a) { return a * inverse; }, row);
      }
    }
  };
  detail::for_heads<heads>(backend, qkv.rows / tokens, Shape::scores_size, Shape::plain_size + Shape::transposed_size,
                           find);
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
