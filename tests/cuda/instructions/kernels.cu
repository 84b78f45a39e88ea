// Kernels whose instructions instructions.py looks at, of ViT-B/16 unless said otherwise.
#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/attention.hpp"
#include "tessera/cuda/contrastive.hpp"
#include "tessera/cuda/linear.hpp"
#include "tessera/cuda/nt_xent.hpp"
#include "tessera/nn/activation.hpp"

namespace tessera::inline TESSERA_ABI::cuda::detail {

template __global__ void transform_kernel<8>(index, Value<nn::Gelu>, bf16*, const bf16*);
template __global__ void activation_gradient_kernel<8, nn::Gelu>(index, const bf16*, bf16*, bf16*);

template __global__ void normalize_rows_kernel<bf16, 256>(index, const bf16*, bf16*, float*);
template __global__ void normalize_rows_gradient_kernel<bf16, 256>(index, const bf16*, const float*, const bf16*,
                                                                   bf16*);

template __global__ void nt_xent_weights_kernel<4, float>(index, index, const double*, const float*, const float*,
                                                          float*);

using Base = TiledHead<197, 12, 768>;
template __global__ void resident_forward_kernel<Base>(const bf16*, float, bf16*, float*);
template __global__ void whole_backward_kernel<Base>(const bf16*, const bf16*, const float*, const bf16*, float, float,
                                                     bf16*);

// 1025 tokens: the kernels that stream keys or queries.
using Long = TiledHead<1025, 12, 768>;
template __global__ void streamed_forward_kernel<Long>(const bf16*, float, bf16*, float*);
template __global__ void query_backward_kernel<Long>(const bf16*, const bf16*, const float*, const bf16*, float, float,
                                                     bf16*, Statistics*);
template __global__ void key_backward_kernel<Long>(const bf16*, const Statistics*, const bf16*, float, float, bf16*);

}  // namespace tessera::inline TESSERA_ABI::cuda::detail
