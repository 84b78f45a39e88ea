// From the tokens of the last block to one feature vector per image (docs/method.md, 2.4).
#pragma once

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace pooling {

// The class token after the final norm.
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

}  // namespace pooling
}  // namespace TESSERA_ABI
}  // namespace tessera
