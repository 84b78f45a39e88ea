// The inline namespace that every public name lives in.
//
// Vector width and struct alignment follow the instruction set a translation unit is compiled for. Two units built with
// different flags must not exchange our types silently, so the instruction set is part of every mangled name: such a
// program stops at the linker, with a symbol that reads `tessera::v0_1_avx2::...`.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define TESSERA_ABI v0_1_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define TESSERA_ABI v0_1_avx2
#elif defined(__AVX__)
#define TESSERA_ABI v0_1_avx
#else
#define TESSERA_ABI v0_1_base
#endif

// Functions that run on the host and, when nvcc compiles them, on the device (templates that are called with packs as
// well are `constexpr` instead: nvcc takes those for both, and lets nothing for devices see a pack); loops whose bodies
// must be unrolled for their values to stay in registers.
#if defined(__CUDACC__)
#define TESSERA_HOST_DEVICE __host__ __device__
#define TESSERA_UNROLL _Pragma("unroll")
#else
#define TESSERA_HOST_DEVICE
#define TESSERA_UNROLL _Pragma("GCC unroll 8")
#endif

#define TESSERA_TEXT_OF(tokens) #tokens
#define TESSERA_TEXT(tokens) TESSERA_TEXT_OF(tokens)

namespace tessera {
inline namespace TESSERA_ABI {

// What the namespace is called: ranks that exchange data must agree on it.
inline constexpr const char* abi_name = TESSERA_TEXT(TESSERA_ABI);

}  // namespace TESSERA_ABI
}  // namespace tessera

#undef TESSERA_TEXT
#undef TESSERA_TEXT_OF
