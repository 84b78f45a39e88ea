// An attention policy of one's own, in one file: ReLU in place of softmax, divided by the number of tokens
// (Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", 2023). docs/writing-a-policy.md walks through
// it.
#pragma once

#include <cmath>

#include "tessera/core/context.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cpu/backend.hpp"

namespace examples {

namespace ts = tessera;

// out = relu(q k^T / sqrt(head width)) / tokens * v, for every head.
struct ReluAttention {
  // Backward needs nothing but q, k and v.
  template <class Scalar, int tokens, int heads>
  struct Saved {};

  template <int tokens, int heads, class Context, class Scalar, int width>
  static Saved<Scalar, tokens, heads> forward(Context& context, ts::Rows<const Scalar, 3 * width> qkv,
                                              ts::Rows<Scalar, width> out) {
    using Matmul = typename Context::Backend::Matmul;
    for_heads<tokens, heads, width>(context, qkv, [&](ts::index row, ts::index column, Scalar* weights, Scalar*) {
      weigh<tokens, heads, width, Matmul>(qkv.row(row) + column, weights);
      Matmul::multiply(ts::index{tokens}, ts::index{width / heads}, ts::index{tokens}, Operand<Scalar>{weights, tokens},
                       Operand<Scalar>{qkv.row(row) + column + 2 * width, 3 * width}, out.row(row) + column,
                       ts::index{width}, false);
    });
    return {};
  }

  template <int tokens, int heads, class Context, class Scalar, int width>
  static void backward(Context& context, ts::Rows<const Scalar, 3 * width> qkv, ts::Rows<const Scalar, width>,
                       const Saved<Scalar, tokens, heads>&, ts::Rows<const Scalar, width> d_out,
                       ts::Rows<Scalar, 3 * width> d_qkv) {
    using Matmul = typename Context::Backend::Matmul;
    constexpr ts::index dim = width / heads, stride = 3 * width;
    for_heads<tokens, heads, width>(
        context, qkv, [&](ts::index row, ts::index column, Scalar* weights, Scalar* scores) {
          const Scalar* const q = qkv.row(row) + column;
          Scalar* const d_q = d_qkv.row(row) + column;
          const Operand<Scalar> gradient{d_out.row(row) + column, width};
          const Scalar slope = weigh<tokens, heads, width, Matmul>(q, weights);
          const auto product = [](ts::index n, ts::index k, Operand<Scalar> a, Operand<Scalar> b, Scalar* c,
                                  ts::index c_stride) {
            Matmul::multiply(ts::index{tokens}, n, k, a, b, c, c_stride, false);
          };
          product(dim, tokens, {weights, tokens, true}, gradient, d_q + 2 * width, stride);  // dv = weights^T d_out
          product(tokens, dim, gradient, {q + 2 * width, stride, true}, scores, tokens);     // d_weights = d_out v^T
          for (int i = 0; i < tokens * tokens; ++i) scores[i] = weights[i] > 0 ? scores[i] * slope : Scalar(0);
          product(dim, tokens, {scores, tokens}, {q + width, stride}, d_q, stride);        // dq = d_scores k
          product(dim, tokens, {scores, tokens, true}, {q, stride}, d_q + width, stride);  // dk = d_scores^T q
        });
  }

  // Assigns the factors of v (images*heads*tokens x tokens), for attention maps. A policy may leave this out: its
  // model then has no maps.
  template <int tokens, int heads, class Context, class Scalar, int columns>
  static void weights(Context& context, ts::Rows<const Scalar, columns> qkv, ts::Rows<Scalar, tokens> weights) {
    constexpr int width = columns / 3;
    for_heads<tokens, heads, width>(context, qkv, [&](ts::index row, ts::index column, Scalar*, Scalar*) {
      const ts::index head = row / tokens * heads + column / (width / heads);
      weigh<tokens, heads, width, typename Context::Backend::Matmul>(qkv.row(row) + column, weights.row(head * tokens));
    });
  }

 private:
  template <class Scalar>
  using Operand = ts::cpu::Operand<Scalar>;

  // weights (tokens x tokens) of the head whose q starts at `q`; returns what a positive score was multiplied with.
  template <int tokens, int heads, int width, class Matmul, class Scalar>
  static Scalar weigh(const Scalar* q, Scalar* weights) {
    constexpr ts::index dim = width / heads, stride = 3 * width;
    const Scalar slope = Scalar(1) / (std::sqrt(Scalar(dim)) * Scalar(tokens));
    Matmul::multiply(ts::index{tokens}, ts::index{tokens}, dim, Operand<Scalar>{q, stride},
                     Operand<Scalar>{q + width, stride, true}, weights, ts::index{tokens}, false);
    for (int i = 0; i < tokens * tokens; ++i) weights[i] = weights[i] > 0 ? weights[i] * slope : Scalar(0);
    return slope;
  }

  // Calls body(first row, first column, scratch, scratch) for every head of every image, in parallel; each scratch
  // holds tokens x tokens scalars of the thread.
  template <int tokens, int heads, int width, class Context, class Scalar, class Body>
  static void for_heads(Context& context, ts::Rows<const Scalar, 3 * width> qkv, Body&& body) {
    const auto frame = context.frame();
    auto& backend = context.backend;
    constexpr ts::index size = tokens * tokens;
    Scalar* const scratch = backend.arena().template take<Scalar>(2 * size * backend.pool().threads());
    backend.for_pieces(qkv.rows / tokens * heads, heads, [&](ts::index first, ts::index last, int worker) {
      Scalar* const mine = scratch + worker * 2 * size;
      for (ts::index task = first; task < last; ++task)
        body(task / heads * tokens, task % heads * (width / heads), mine, mine + size);
    });
  }
};

}  // namespace examples
