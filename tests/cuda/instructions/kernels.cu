// Calls every operation of the CUDA backend at the shapes of ViT-B/16 on 224 pixels, unless said otherwise, so that
// nvcc compiles the kernels that these launch. instructions.py looks at them; nothing is run.
#include "tessera/comm/serial.hpp"
#include "tessera/core/context.hpp"
#include "tessera/cuda/augment.hpp"
#include "tessera/cuda/cuda.hpp"
#include "tessera/nn/activation.hpp"
#include "tessera/optim/adamw.hpp"
#include "tessera/optim/lars.hpp"

namespace tessera::inline TESSERA_ABI {
namespace {

constexpr int tokens = 197, patches = 196, heads = 12, width = 768, hidden = 3072;

template <int columns, class Scalar = bf16>
using Given = Rows<const Scalar, columns>;
template <int columns, class Scalar = bf16>
using Wanted = Rows<Scalar, columns>;

template <class Scalar, int of_tokens, int of_heads, int of_width>
void attention(cuda::Backend<Scalar>& backend) {
  attention_forward<of_tokens, of_heads>(backend, Given<3 * of_width, Scalar>{}, Wanted<of_width, Scalar>{},
                                         Wanted<of_tokens, float>{});
  attention_backward<of_tokens, of_heads>(backend, Given<3 * of_width, Scalar>{}, Given<of_width, Scalar>{},
                                          Given<of_tokens, float>{}, Given<of_width, Scalar>{},
                                          Wanted<3 * of_width, Scalar>{});
}

template <class Rule>
void update(cuda::Backend<bf16>& backend, const typename Rule::Coefficients* coefficients) {
  const std::array<float*, Rule::states> states{};
  if constexpr (requires { Rule::ratio; })
    update_tensor<Rule>(backend, 0, coefficients, optim::Group{}, true, nullptr, nullptr, nullptr, Parameter<bf16>{},
                        states);
  else
    update_elements<Rule>(backend, 0, coefficients, optim::Group{}, nullptr, nullptr, nullptr, Parameter<bf16>{},
                          states);
}

}  // namespace

void transformer(cuda::Backend<bf16>& backend, cuda::Backend<float>& float_backend) {
  linear_activation_gradient<nn::Gelu>(backend, Given<width>{}, Parameter<bf16>{}, Given<hidden>{}, Wanted<hidden>{},
                                       Wanted<hidden>{}, nullptr);
  linear_weight_gradient(backend, Given<width>{}, Given<width>{}, nullptr, nullptr);
  activation_forward<nn::Gelu>(backend, Given<hidden>{}, Wanted<hidden>{});
  activation_backward<nn::Gelu>(backend, Given<hidden>{}, Given<hidden>{}, Wanted<hidden>{});
  layer_norm_forward(backend, Given<width>{}, nullptr, nullptr, 1e-6, Wanted<2, float>{}, Wanted<width>{});
  layer_norm_backward(backend, Given<width>{}, nullptr, Given<2, float>{}, Given<width>{}, Given<width>{},
                      Wanted<width>{}, nullptr, nullptr);
  attention<bf16, tokens, heads, width>(backend);
  attention<bf16, 1025, 12, 768>(backend);  // 512 pixels: keys or queries are streamed
  attention<bf16, 257, 16, 1280>(backend);  // ViT-H/14: heads of 80
  attention<float, tokens, heads, width>(float_backend);
  attention_weights<tokens, heads, width>(backend, Given<3 * width>{}, Wanted<tokens>{});
  scale_branch<tokens>(backend, Given<width>{}, nullptr, Given<width>{}, Wanted<width>{});
  draw_drop_path(backend, nullptr, nullptr, 0, 12, 0, nullptr);
  fill_with_noise(backend);
}

void sequences(cuda::Backend<bf16>& backend) {
  patchify<3, 224, 16>(backend, Given<3 * 224 * 224>{}, Wanted<width>{});
  assemble_tokens<patches, tokens>(backend, Given<width>{}, nullptr, nullptr, Wanted<width>{});
  assemble_tokens_backward<patches, tokens>(backend, Given<width>{}, Wanted<width>{}, nullptr, nullptr);
  take_token<tokens>(backend, Given<width>{}, 0, Wanted<width>{});
  take_token_backward<tokens>(backend, Given<width>{}, 0, Wanted<width>{});
  mean_tokens<tokens, 1>(backend, Given<width>{}, Wanted<width>{});
  mean_tokens_backward<tokens, 1>(backend, Given<width>{}, Wanted<width>{});
  gather_tokens<patches, 49>(backend, Given<width>{}, nullptr, Wanted<width>{});
  scatter_tokens<patches, 49>(backend, Given<width>{}, nullptr, Wanted<width>{});
  add_positions<1, 49>(backend, Given<width, float>{}, nullptr, Wanted<width>{});
  add_positions_backward<1, 49>(backend, Given<width>{}, nullptr, Wanted<width, float>{});
  resample_positions<Grid{14, 14}, Grid{6, 6}>(backend, Given<width, float>{}, 0.0, Wanted<width, float>{});
  resample_positions_backward<Grid{14, 14}, Grid{6, 6}>(backend, Given<width, float>{}, 0.0, Wanted<width, float>{});
  // The decoder of MAE has 512 columns.
  mask_by_noise<patches, 49>(backend, nullptr, 0, nullptr, nullptr);
  draw_mask<patches, 49>(backend, nullptr, 0, 0, nullptr, nullptr);
  unshuffle_tokens<1, patches, 49>(backend, Given<512>{}, nullptr, nullptr, nullptr, Wanted<512>{});
  unshuffle_tokens_backward<1, patches, 49>(backend, Given<512>{}, nullptr, nullptr, Wanted<512>{}, nullptr);
  patch_targets<3, 224, 16, true>(backend, Given<3 * 224 * 224>{}, Wanted<width>{});
  masked_mse<1, patches, 49>(backend, Given<width>{}, Given<width>{}, nullptr, 1.0, 0, nullptr, Wanted<width>{});
}

// Heads of 4096 and 256 columns, 1000 classes, images of 224 pixels, the first convolution of a stem.
void objectives(cuda::Backend<bf16>& backend) {
  comm::Serial alone;
  Context<cuda::Backend<bf16>, comm::Serial> context{backend, alone};
  batch_norm_forward(context, Given<4096>{}, nullptr, nullptr, 1e-5, 0.1, nullptr, nullptr, nullptr,
                     Wanted<8192, float>{}, Wanted<4096>{});
  batch_norm_backward(context, Given<4096>{}, nullptr, Given<8192, float>{}, Given<4096>{}, Given<4096>{},
                      Wanted<4096>{}, nullptr, nullptr);
  batch_norm_evaluate(backend, Given<4096>{}, nullptr, nullptr, 1e-5, nullptr, nullptr, Wanted<4096>{});
  normalize_rows(backend, Given<256>{}, Wanted<256>{}, Wanted<1, float>{});
  normalize_rows_backward(backend, Given<256>{}, Given<1, float>{}, Given<256>{}, Wanted<256>{});
  info_nce(backend, Given<256>{}, Given<256>{}, InfoNce{}, nullptr, 0, 1, nullptr, Wanted<256>{});
  nt_xent_forward(backend, Given<256>{}, nullptr, 0, Wanted<1, float>{}, nullptr);
  nt_xent_backward(backend, Given<256>{}, nullptr, 0, Given<1, float>{}, Wanted<256>{});
  cross_entropy(backend, Given<1000>{}, nullptr, nullptr, nullptr, 1, nullptr, Wanted<1000>{});
  keep_losses(backend, 0, nullptr, 1.0, nullptr, static_cast<float*>(nullptr));
  draw_mixing(backend, nullptr, nullptr, nullptr, nullptr, nullptr, 224, nullptr);
  mix_images<3, 224>(backend, nullptr, Given<3 * 224 * 224>{}, Wanted<3 * 224 * 224>{});
  unfold<48, 112, 3, 2, 1>(backend, Given<48>{}, Wanted<432>{});
  fold<48, 112, 3, 2, 1>(backend, Given<432>{}, Wanted<48>{});
  to_channels_last<3, 224 * 224>(backend, Given<3 * 224 * 224>{}, Wanted<3>{});
  to_planar<3, 224 * 224>(backend, Given<3>{}, Wanted<3 * 224 * 224>{});
  augment<3, 224>(backend, nullptr, 0, nullptr, data::Normalization{}, Wanted<3 * 224 * 224>{});
}

void updates(cuda::Backend<bf16>& backend) {
  update<optim::AdamW>(backend, nullptr);
  update<optim::Lars>(backend, nullptr);
  moving_average(backend, 0, nullptr, nullptr, Parameter<bf16>{});
  copy_to_low(backend, 0, Parameter<bf16>{});
  check_finite(backend, 0, nullptr, nullptr, nullptr);
  squared_norms(backend, {}, nullptr, nullptr);
  add_squares(backend, 0, static_cast<const float*>(nullptr), nullptr);
  clip(backend, 0, 1.0, nullptr, nullptr, static_cast<float*>(nullptr));
}

}  // namespace tessera::inline TESSERA_ABI
