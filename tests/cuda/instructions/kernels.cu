// Kernels whose instructions instructions.py looks at, of ViT-B/16 unless said otherwise.
#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/linear.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::inline TESSERA_ABI::cuda::detail {

template __global__ void transform_kernel<8>(index, Value<nn::Gelu>, bf16*, const bf16*);
template __global__ void activation_gradient_kernel<8, nn::Gelu>(index, const bf16*, bf16*, bf16*);

}  // namespace tessera::inline TESSERA_ABI::cuda::detail
