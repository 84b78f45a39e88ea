// expect: this communicator cannot move data of this backend
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/train/trainer.hpp"
namespace ts = tessera;
#ifdef BAD
struct Ranks {
  int rank() const { return 0; }
  int size() const { return 2; }
};
#else
using Ranks = ts::comm::Threads;
#endif
using MoCo = ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 64, 16>, ts::heads::Mlp<2, 64, 16>>;
static_assert(sizeof(ts::Trainer<MoCo, ts::Device<ts::cpu::Backend<float>, Ranks>>) > 0);
