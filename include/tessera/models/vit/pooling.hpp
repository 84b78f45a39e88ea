// Pooling: from the tokens of the last block to the features of an image (docs/method.md, 2.2 and 2.4).
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace pooling {

// The class token behind the final norm.
struct ClassToken {
  static constexpr bool class_token = true, final_norm = true;
};

// No class token; final norm, then the mean over the patches ("LN+pool").
struct MeanNorm {
  static constexpr bool class_token = false, final_norm = true;
};

// No class token, no final norm; the mean over the patches ("pool").
struct Mean {
  static constexpr bool class_token = false, final_norm = false;
};

// The mean over the patches, the class token left out, then LayerNorm `fc_norm`; no final norm. For fine-tuning an
// encoder that MAE pre-trained (docs/method.md, 9.1).
struct MeanPatchesNorm {
  static constexpr bool class_token = true, final_norm = false, fc_norm = true;
};

}  // namespace pooling
}  // namespace TESSERA_ABI
}  // namespace tessera
