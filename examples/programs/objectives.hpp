// The objectives that the programs know by name, each with the heads that suit an arch.
#pragma once

#include "archs.hpp"
#include "tessera/objectives/mae.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/objectives/simclr.hpp"
#include "tessera/objectives/supervised.hpp"

namespace named {

namespace ts = tessera;

template <class Arch>
using moco_v3 = ts::objectives::MoCoV3<typename Arch::Encoder, ts::heads::Mlp<3, Arch::mlp_dim, Arch::dim>,
                                       ts::heads::Mlp<2, Arch::mlp_dim, Arch::dim>>;

template <class Arch>
using simclr = ts::objectives::SimCLR<typename Arch::Encoder, ts::heads::Mlp<3, Arch::mlp_dim, Arch::dim>>;

template <class Arch>
using supervised = ts::objectives::Supervised<typename Arch::Encoder, Arch::classes>;

template <class Arch>
using mae =
    ts::objectives::MAE<typename Arch::Encoder, ts::objectives::mae::Decoder<2 * Arch::dim, Arch::decoder_depth, 16>>;

}  // namespace named
