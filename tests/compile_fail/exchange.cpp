// expect: several ranks exchange features
#include "tessera/comm/data_parallel.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
namespace ts = tessera;
using Backend = ts::cpu::Backend<float>;
#ifdef BAD
using Ranks = ts::comm::Threads;
#else
using Ranks = ts::comm::Serial;
#endif
using MoCo = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 64, 16>, ts::heads::Mlp<2, 64, 16>>;
using Step = ts::objectives::Step<MoCo, ts::Context<Backend, Ranks>>;
void step(Step& s) {
  MoCo::step(s);
}
