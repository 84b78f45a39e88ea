// TESSERA_ABI: the inline namespace of every public name.
//
// The width of a pack and the alignment of structs depend on the instruction set that a translation unit is compiled
// for. TESSERA_ABI names the instruction set, so it is part of every mangled name: units compiled with different flags
// do not link, and the linker names a symbol such as `tessera::v0_1_avx2::...`.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512BF16__)
#define TESSERA_ABI v0_1_avx512_bf16
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define TESSERA_ABI v0_1_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define TESSERA_ABI v0_1_avx2
#elif defined(__AVX__)
#define TESSERA_ABI v0_1_avx
#else
#define TESSERA_ABI v0_1_base
#endif

// TESSERA_HOST_DEVICE marks a function for host and device under nvcc, and is empty otherwise. Templates that are also
// called with packs are `constexpr` instead: nvcc compiles these for both sides, but rejects packs in device functions.
// TESSERA_UNROLL unrolls the next loop, so that the arrays it indexes stay in registers.
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

// The name of the namespace. All ranks of a job must have the same.
inline constexpr const char* abi_name = TESSERA_TEXT(TESSERA_ABI);

}  // namespace TESSERA_ABI
}  // namespace tessera

#undef TESSERA_TEXT
#undef TESSERA_TEXT_OF
