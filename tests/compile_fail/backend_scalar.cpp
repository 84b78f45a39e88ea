// expect: the CPU backend computes in float, double or bf16
#include "tessera/cpu/cpu.hpp"
#ifdef BAD
using Scalar = int;
#else
using Scalar = double;
#endif
static_assert(sizeof(tessera::cpu::Backend<Scalar, tessera::cpu::EigenMatmul>) > 0);
