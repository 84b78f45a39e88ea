// The encoders that the programs know by name: the paper's, and small ones for small pictures (docs/method.md,
// "Variants").
#pragma once

#include "tessera/models/heads.hpp"
#include "tessera/models/vit/vit.hpp"

namespace archs {

namespace ts = tessera;

// An encoder, the heads that suit its width, the classes of the data set that it is usually trained on, and the blocks
// of MAE's decoder, whose width is 2 dim.
template <class Encoder_, int mlp_dim_, int dim_, int classes_ = 1000, int decoder_depth_ = 8>
struct Arch {
  using Encoder = Encoder_;
  static constexpr int mlp_dim = mlp_dim_, dim = dim_, classes = classes_, decoder_depth = decoder_depth_;
};
template <class Encoder>
using Paper = Arch<Encoder, 4096, 256>;

// Embed: embed::Patches, or embed::FrozenPatches with --stop-grad-conv1.
template <class Embed>
using vit_tiny = Arch<ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, ts::vit::policies<Embed>>, 512, 128, 10, 2>;
template <class Embed>
using vit_tiny_32 = Arch<ts::vit::Tiny<ts::image<32>, ts::patch<4>, ts::vit::policies<Embed>>, 512, 128, 10, 2>;
template <class Embed>
using vit_tiny_64 = Arch<ts::vit::Tiny<ts::image<64>, ts::patch<8>, ts::vit::policies<Embed>>, 512, 128, 10, 2>;
template <class Embed>
using vit_small = Paper<ts::vit::Small<ts::image<224>, ts::patch<16>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_base = Paper<ts::vit::Base<ts::image<224>, ts::patch<16>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_large = Paper<ts::vit::Large<ts::image<224>, ts::patch<16>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_huge = Paper<ts::vit::Huge<ts::image<224>, ts::patch<14>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_small_p7 = Paper<ts::vit::Small<ts::image<224>, ts::patch<7>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_base_p7 = Paper<ts::vit::Base<ts::image<224>, ts::patch<7>, ts::vit::policies<Embed>>>;
template <class Embed>
using vit_large_p7 = Paper<ts::vit::Large<ts::image<224>, ts::patch<7>, ts::vit::policies<Embed>>>;
// The stem is always trained.
template <class>
using vit_conv_small = Paper<ts::vit::ConvSmall<>>;
template <class>
using vit_conv_base = Paper<ts::vit::ConvBase<>>;

}  // namespace archs
