// The whole CPU backend. A program includes this header where it makes a Backend: layers find the operations by
// their first argument.
#pragma once

#include "tessera/cpu/activation.hpp"
#include "tessera/cpu/attention.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/batch_norm.hpp"
#include "tessera/cpu/clip.hpp"
#include "tessera/cpu/contrastive.hpp"
#include "tessera/cpu/conv.hpp"
#include "tessera/cpu/cross_entropy.hpp"
#include "tessera/cpu/draws.hpp"
#include "tessera/cpu/drop_path.hpp"
#include "tessera/cpu/kept_tokens.hpp"
#include "tessera/cpu/layer_norm.hpp"
#include "tessera/cpu/linear.hpp"
#include "tessera/cpu/masking.hpp"
#include "tessera/cpu/matmul.hpp"
#include "tessera/cpu/mixing.hpp"
#include "tessera/cpu/nt_xent.hpp"
#include "tessera/cpu/positions.hpp"
#include "tessera/cpu/tokens.hpp"
#include "tessera/cpu/update.hpp"
#include "tessera/operations.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

static_assert(Operations<Backend<float>>);
static_assert(Operations<Backend<bf16>>);

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
