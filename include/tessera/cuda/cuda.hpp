// The whole CUDA backend. A program includes this header where it makes a Backend: layers find the operations by
// their first argument.
#pragma once

#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/attention.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/batch_norm.hpp"
#include "tessera/cuda/clip.hpp"
#include "tessera/cuda/contrastive.hpp"
#include "tessera/cuda/conv.hpp"
#include "tessera/cuda/cross_entropy.hpp"
#include "tessera/cuda/draws.hpp"
#include "tessera/cuda/drop_path.hpp"
#include "tessera/cuda/kept_tokens.hpp"
#include "tessera/cuda/layer_norm.hpp"
#include "tessera/cuda/linear.hpp"
#include "tessera/cuda/masking.hpp"
#include "tessera/cuda/mixing.hpp"
#include "tessera/cuda/nt_xent.hpp"
#include "tessera/cuda/positions.hpp"
#include "tessera/cuda/tokens.hpp"
#include "tessera/cuda/update.hpp"
#include "tessera/operations.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

static_assert(Operations<Backend<float>> && Operations<Backend<bf16>>);

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
