// expect: tessera: a subset of the patches needs an embedding that projects each patch alone
#include "tessera/comm/serial.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
#ifdef BAD
using Embed = ts::embed::ConvStem;
#else
using Embed = ts::embed::FrozenPatches;
#endif
using Model = ts::VisionTransformer<ts::image<32>, ts::patch<16>, 32, 1, 2, 4, ts::vit::policies<Embed>>::Visible<2>;
void look(ts::Context<ts::cpu::Backend<float, ts::cpu::EigenMatmul>, ts::comm::Serial>& context,
          const Model::Parameters<float*>& p, ts::Rows<const float, Model::in> images, const int* keep,
          ts::Rows<float, Model::out> tokens) {
  Model::encode(context, p, images, keep, tokens);
}
