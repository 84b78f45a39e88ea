// Words: as many scalars along the depth of a product as one instruction multiplies and adds.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/simd.hpp"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// One scalar of float or double, two of bf16: the earlier one is the lower half.
template <class Scalar>
struct Words {
  using Sum = Accumulator<Scalar>;
  static constexpr index scalars = std::is_same_v<Scalar, bf16> ? 2 : 1;  // of a word
  using Word = std::conditional_t<scalars == 1, Sum, std::uint32_t>;
  typedef Word Pack __attribute__((vector_size(simd::bytes)));

  // value = the word, or the pack of words, at `from`.
  template <class Value>
  [[gnu::always_inline]] static void read(const Scalar* from, Value& value) {
    std::memcpy(&value, from, sizeof(value));
  }

  // sum += left * right, for bf16 the sum of both products.
  [[gnu::always_inline]] static void add_product(simd::Pack<Sum>& sum, Word left, Pack right) {
    if constexpr (scalars == 1) {
      sum += left * right;
    } else {
#if defined(__AVX512BF16__)
      sum = _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(Pack{} + left), std::bit_cast<__m512bh>(right));
#else
      // A bf16 is the upper half of a float.
      sum += std::bit_cast<float>(left << 16) * std::bit_cast<simd::Pack<float>>(right << 16);
      sum += std::bit_cast<float>(left & 0xFFFF0000u) * std::bit_cast<simd::Pack<float>>(right & 0xFFFF0000u);
#endif
    }
  }
};

template <class Element, int count>
struct VectorOf {
  typedef Element type __attribute__((vector_size(count * sizeof(Element))));
};

// to[2 r] = even[r], to[2 r + 1] = odd[r] for r < count: `width` words at a time.
template <int width>
[[gnu::always_inline]] inline void interleave(index count, const bf16* even, const bf16* odd, bf16* to) {
  using Halves = typename VectorOf<std::uint16_t, width>::type;
  using Wholes = typename VectorOf<std::uint32_t, width>::type;
  index r = 0;
  for (; r + width <= count; r += width) {
    Halves low, high;
    std::memcpy(&low, even + r, sizeof low);
    std::memcpy(&high, odd + r, sizeof high);
    const Wholes words = __builtin_convertvector(low, Wholes) | __builtin_convertvector(high, Wholes) << 16;
    std::memcpy(static_cast<void*>(to + 2 * r), &words, sizeof words);
  }
  for (; r < count; ++r) {
    to[2 * r] = even[r];
    to[2 * r + 1] = odd[r];
  }
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
