// expect: tessera: this backend lacks an operation, or has one with other arguments
#include "tessera/train/device.hpp"
namespace ts = tessera;
#ifdef BAD
namespace mine {
struct Backend : ts::cpu::Backend<float> {};
// Stands in front of the CPU's, and cannot be called.
template <int tokens, int width>
void scale_branch(Backend&, ts::Rows<const float, width>, const float*, ts::Rows<const float, width>,
                  ts::Rows<float, width>) = delete;
}  // namespace mine
ts::Device<mine::Backend> device;
#else
ts::Device<ts::cpu::Backend<float>> device;
#endif
