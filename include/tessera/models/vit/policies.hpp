// The policies of a Vision Transformer.
#pragma once

#include <type_traits>

#include "tessera/concepts.hpp"
#include "tessera/models/vit/embed.hpp"
#include "tessera/models/vit/pooling.hpp"
#include "tessera/models/vit/position.hpp"
#include "tessera/nn/activation.hpp"
#include "tessera/nn/attention.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/nn/block.hpp"
#include "tessera/nn/layer_norm.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The norm in front of the MLP of a block. Layer::each_row_alone is true if a token's result does not depend on the
// other tokens.
namespace mlp_norm {
struct LayerNorm {
  template <int features>
  using Layer = nn::LayerNorm<features>;
};
struct BatchNorm {
  template <int features>
  using Layer = nn::BatchNorm<features>;
};
}  // namespace mlp_norm

// The activations that a block saves for backward. None: all that backward needs. Blocks: its input alone (activation
// checkpointing), which adds about two thirds of a forward pass and takes a twelfth of the memory.
namespace recompute {
struct None {
  template <class Block>
  using Layer = Block;
};
struct Blocks {
  template <class Block>
  using Layer = nn::RecomputedBlock<Block>;
};
}  // namespace recompute

namespace vit {
namespace detail {

enum class Kind { none, embed, position, attention, pooling, mlp_norm, activation, recompute };

// Members by which an incomplete policy is still recognised. The static_assert of the layer that uses it then names the
// missing ones.
template <class Policy>
concept HasSaved = requires {
  typename Policy::template Saved<float, 4, 2>;
};
template <class Policy>
concept HasSupports = requires {
  Policy::template supports<8>;
};
template <class Policy>
concept HasPoolingMember = requires {
  Policy::class_token;
}
|| requires {
  Policy::final_norm;
};
template <class Policy>
concept HasValue = requires {
  Policy::value(1.0);
}
|| requires {
  Policy::value_and_slope(1.0);
};

template <class Policy>
consteval Kind kind_of() {
  if (AttentionPolicy<Policy>) return Kind::attention;
  if (PositionEmbedding<Policy>) return Kind::position;
  if (Pooling<Policy>) return Kind::pooling;
  if (ActivationFunction<Policy>) return Kind::activation;
  if (PatchEmbedding<Policy>) return Kind::embed;
  if (MlpNorm<Policy>) return Kind::mlp_norm;
  if (Recomputation<Policy>) return Kind::recompute;
  if (HasSaved<Policy>) return Kind::attention;
  if (HasSupports<Policy>) return Kind::position;
  if (HasPoolingMember<Policy>) return Kind::pooling;
  if (HasValue<Policy>) return Kind::activation;
  return Kind::none;
}

template <class Policy>
struct Recognized {
  static constexpr Kind kind = kind_of<Policy>();
  static_assert(kind != Kind::none,
                "tessera: this type is no policy of a Vision Transformer: it is neither a patch embedding, a position "
                "embedding, an attention, a pooling, a norm of the MLP, an activation nor a recomputation");
};

template <Kind kind, class Default, class... Policies>
struct Chosen : std::type_identity<Default> {};
template <Kind kind, class Default, class First, class... Rest>
struct Chosen<kind, Default, First, Rest...>
    : std::conditional_t<Recognized<First>::kind == kind, std::type_identity<First>, Chosen<kind, Default, Rest...>> {
  static_assert(Recognized<First>::kind != kind || ((Recognized<Rest>::kind != kind) && ...),
                "tessera: two policies of a Vision Transformer are of the same kind: leave one of them out");
};

}  // namespace detail

// The policies of a Vision Transformer, in any order: the concept that a type models (concepts.hpp) gives its kind. The
// default of a kind is MoCo v3's choice.
template <class... Policies>
struct policies {
 private:
  template <detail::Kind kind, class Default>
  using Chosen = typename detail::Chosen<kind, Default, Policies...>::type;

 public:
  using Embed = Chosen<detail::Kind::embed, embed::Patches>;
  using Position = Chosen<detail::Kind::position, position::SinCos2d>;
  using Attention = Chosen<detail::Kind::attention, attention::SoftmaxAttention>;
  using Pooling = Chosen<detail::Kind::pooling, pooling::ClassToken>;
  using MlpNorm = Chosen<detail::Kind::mlp_norm, mlp_norm::LayerNorm>;
  using Activation = Chosen<detail::Kind::activation, nn::Gelu>;
  using Recompute = Chosen<detail::Kind::recompute, recompute::None>;
};

}  // namespace vit
}  // namespace TESSERA_ABI
}  // namespace tessera
