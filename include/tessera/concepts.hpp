// The concepts of policies and layers; the comment of each is the shortest type that models it. A composition checks
// its policies by static_assert, so that a wrong one fails in the user's line with a sentence.
#pragma once

#include <chrono>
#include <concepts>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/rows.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Types that the concepts below are checked with; they are never run.
namespace archetype {
struct Backend {
  using Scalar = float;
};
struct Communicator {};
struct Image {};
struct Patch {};
struct Block {};
using Context = tessera::Context<Backend, Communicator>;
}  // namespace archetype

// One rank's end of a group; comm/communicator.hpp has the contract that all of them share. Calls follow the work of
// `queue`, a backend or a lane beside it. wait(queue) returns when the calls are done, and throws comm::RankLost if one
// has failed. duplicate() is a second communicator of the group, for calls beside those of the first. abort() makes all
// calls of this rank fail, those that other threads wait in too.
//
// struct Serial {
//   int rank(); int size();
//   void all_reduce(Queue&, Value* values, index count);              // sums over all ranks, in place
//   void reduce_scatter(Queue&, Value* values, comm::Displacements);  // sums over all ranks, of this rank's part alone
//   void all_gather(Queue&, Value* values, comm::Displacements);      // all ranks receive the parts of all
//   void broadcast(Queue&, Value* values, index count);               // all ranks receive the values of rank 0
//   void wait(Queue&); Serial duplicate(); void set_deadline(std::chrono::milliseconds); void abort() noexcept;
// };
template <class Candidate, class Queue = comm::Host>
concept Communicator = requires(Candidate& c, Queue& queue, double* values, index count,
                                comm::Displacements displacements) {
  { c.rank() } -> std::convertible_to<int>;
  { c.size() } -> std::convertible_to<int>;
  c.all_reduce(queue, values, count);
  c.reduce_scatter(queue, values, displacements);
  c.all_gather(queue, values, displacements);
  c.broadcast(queue, values, count);
  c.wait(queue);
  { c.duplicate() } -> std::same_as<Candidate>;
  c.set_deadline(std::chrono::milliseconds(1));
  c.abort();
};

// A type without state that maps x (rows x in) to y (out_rows(rows) x out). forward returns in Saved what backward
// needs besides x; backward assigns the gradients g and dx. Write the return type of forward out: with `auto` the
// concept would have to compile its body.
//
// struct Copy {
//   static constexpr int in = 8, out = 8;
//   static constexpr index out_rows(index rows) { return rows; }
//   template <class Leaf> struct Parameters {};   // a member of type Leaf for each tensor
//   template <class Scalar> struct Saved {};
//   template <class Visit> static constexpr auto declare(Visit&, const Name&) {
//     return Parameters<typename Visit::Leaf>{};  // visit(name, shape, role, initial) for each tensor
//   }
//   template <class Context, class Scalar>
//   static Saved<Scalar> forward(Context& context, const Parameters<Parameter<Scalar>>& p, Rows<const Scalar, in> x,
//                                Rows<Scalar, out> y) {
//     context.backend.copy(x.size(), x.data, y.data);
//     return {};
//   }
//   template <class Context, class Scalar>
//   static void backward(Context& context, const Parameters<Parameter<Scalar>>& p,
//                        const Parameters<Accumulator<Scalar>*>& g, Rows<const Scalar, in> x, const Saved<Scalar>&,
//                        Rows<const Scalar, out> dy, Rows<Scalar, in> dx) {
//     context.backend.copy(dy.size(), dy.data, dx.data);
//   }
// };
template <class Candidate>
concept Layer = requires(archetype::Context& context, const typename Candidate::template Parameters<float*>& p,
                         const typename Candidate::template Saved<float>& saved, Rows<const float, Candidate::in> x,
                         Rows<float, Candidate::out> y, Rows<const float, Candidate::out> dy,
                         Rows<float, Candidate::in> dx, layout::Count& visit, const Name& name) {
  { Candidate::out_rows(x.rows) } -> std::same_as<index>;
  { Candidate::declare(visit, name) } -> std::same_as<typename Candidate::template Parameters<layout::Count::Leaf>>;
  { Candidate::forward(context, p, x, y) } -> std::same_as<typename Candidate::template Saved<float>>;
  Candidate::backward(context, p, p, x, saved, dy, dx);
};

// An encoder: a Layer from planar, normalized images (rows of Image::values) to features (`out` of each image), and
// encode, which is forward without what backward needs. Heads, objectives and evaluation ask for nothing else.
//   using Image = image<224>;
//   template <class Context, class Scalar>
//   static void encode(Context&, const Parameters<Parameter<Scalar>>&, Rows<const Scalar, in>, Rows<Scalar, out>);
template <class Candidate>
concept Backbone = Layer<Candidate> &&
    requires(archetype::Context& context, const typename Candidate::template Parameters<float*>& p,
             Rows<const float, Candidate::in> x, Rows<float, Candidate::out> y) {
  requires Candidate::Image::values == Candidate::in;
  Candidate::encode(context, p, x, y);
};

// The part of attention between the q, k, v projection and the output projection: out (images*tokens x width) from qkv
// (images*tokens x 3 width), whose columns are q, k, v, each with its heads side by side (docs/writing-a-policy.md).
// struct Policy {
//   template <class Scalar, int tokens, int heads> struct Saved {};
//   template <int tokens, int heads, class Context, class Scalar, int width>
//   static Saved<Scalar, tokens, heads> forward(Context&, Rows<const Scalar, 3 * width> qkv, Rows<Scalar, width> out);
//   template <int tokens, int heads, class Context, class Scalar, int width>
//   static void backward(Context&, Rows<const Scalar, 3 * width> qkv, Rows<const Scalar, width> out,
//                        const Saved<Scalar, tokens, heads>&, Rows<const Scalar, width> d_out,
//                        Rows<Scalar, 3 * width> d_qkv);
// };
template <class Candidate>
concept AttentionPolicy = requires(archetype::Context& context, Rows<const float, 24> qkv, Rows<float, 8> out,
                                   Rows<const float, 8> d_out, Rows<float, 24> d_qkv,
                                   const typename Candidate::template Saved<float, 4, 2>& saved) {
  {
    Candidate::template forward<4, 2>(context, qkv, out)
    } -> std::same_as<typename Candidate::template Saved<float, 4, 2>>;
  Candidate::template backward<4, 2>(context, qkv, d_out, saved, d_out, d_qkv);
};

// An attention policy that has attention maps: weights assigns the factor of every key for every query
// (images*heads*tokens x tokens), as forward applies them to v. columns = 3 * width.
//   template <int tokens, int heads, class Context, class Scalar, int columns>
//   static void weights(Context&, Rows<const Scalar, columns> qkv, Rows<Scalar, tokens> weights);
template <class Candidate>
concept AttentionWeights = AttentionPolicy<Candidate> &&
    requires(archetype::Context& context, Rows<const float, 24> qkv, Rows<float, 4> weights) {
  Candidate::template weights<4, 2>(context, qkv, weights);
};

// From images to the tokens of their patches: Layer maps images (images x Image::values) to images*tokens x width, and
// has the constants grid, tokens = grid^2 and trained.
// struct Patches { template <class Image, class Patch, int width> using Layer = ...; };
template <class Candidate>
concept PatchEmbedding = requires {
  typename Candidate::template Layer<archetype::Image, archetype::Patch, 8>;
};

// The position table (1, tokens, width) that is added to the tokens; `tokens` counts the class token, if there is one.
// struct None { static constexpr bool trained = false; template <int width> static constexpr bool supports = true;
//               template <class Visit> static constexpr typename Visit::Leaf declare(Visit&, const Name&, int tokens,
//               int width) { return {}; } };
template <class Candidate>
concept PositionEmbedding = requires(layout::Count& visit, const Name& name) {
  { Candidate::trained } -> std::convertible_to<bool>;
  { Candidate::template supports<8> } -> std::convertible_to<bool>;
  { Candidate::declare(visit, name, 5, 8) } -> std::same_as<layout::Count::Leaf>;
};

// True if a pooling has the norm fc_norm behind the mean over the patches, in place of the final norm.
template <class Candidate>
inline constexpr bool has_fc_norm = requires {
  requires Candidate::fc_norm;
};

// From tokens to features.
// struct Mean { static constexpr bool class_token = false, final_norm = false; };  // and fc_norm = true, if wanted
template <class Candidate>
concept Pooling = requires {
  { Candidate::class_token } -> std::convertible_to<bool>;
  { Candidate::final_norm } -> std::convertible_to<bool>;
}
&&(has_fc_norm<Candidate> ? !Candidate::final_norm : Candidate::final_norm || !Candidate::class_token);

// The norm in front of the MLP.
// struct LayerNorm { template <int features> using Layer = nn::LayerNorm<features>; };
template <class Candidate>
concept MlpNorm = requires {
  { Candidate::template Layer<8>::each_row_alone } -> std::convertible_to<bool>;
};

// The activations that a block saves for backward.
// struct None { template <class Block> using Layer = Block; };
template <class Candidate>
concept Recomputation = requires {
  typename Candidate::template Layer<archetype::Block>;
};

// f(x), and f(x) with f'(x), each for packs and for scalars.
// struct Identity { static Value value(Value x); static ValueAndSlope<Value> value_and_slope(Value x); };
template <class Candidate>
concept ActivationFunction = requires(simd::Pack<float> pack, double scalar) {
  { Candidate::value(pack) } -> std::same_as<simd::Pack<float>>;
  { Candidate::value(scalar) } -> std::same_as<double>;
  Candidate::value_and_slope(pack).slope;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
