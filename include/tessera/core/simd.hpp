// Packs: GCC vector types of one register of the target.
//
// An element-wise function is written once, as a generic functor: the CPU calls it with packs, a device with scalars.
// Packs have + - * / and comparisons, element by element, also with a scalar on one side. A pack of bf16 in registers
// is a pack of floats: loads widen it, stores round it to nearest, ties to even.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace tessera {
inline namespace TESSERA_ABI {
namespace simd {

#if defined(__AVX512F__)
inline constexpr std::size_t bytes = 64;
#elif defined(__AVX__)
inline constexpr std::size_t bytes = 32;
#else
inline constexpr std::size_t bytes = 16;
#endif

// The target has an instruction that multiplies and adds pairs of bf16 into floats.
#if defined(__AVX512BF16__)
inline constexpr bool has_bf16_products = true;
#else
inline constexpr bool has_bf16_products = false;
#endif

template <class Scalar>
struct PackOf {
  typedef Scalar type __attribute__((vector_size(bytes)));
};
template <>
struct PackOf<bf16> : PackOf<float> {};

template <class Scalar>
using Pack = typename PackOf<Scalar>::type;

// Elements of a pack.
template <class Scalar>
inline constexpr index lanes = bytes / sizeof(Accumulator<Scalar>);

// decltype(scalar_of(x)) is the scalar type of the pack or scalar x. Declarations only.
float scalar_of(Pack<float>);
double scalar_of(Pack<double>);
float scalar_of(float);
double scalar_of(double);

// The integer pack that a comparison of packs gives: -1 where true, 0 where false.
template <class Scalar>
using Mask = Pack<std::conditional_t<sizeof(Accumulator<Scalar>) == 4, std::int32_t, std::int64_t>>;

namespace detail {

typedef std::uint16_t Halves __attribute__((vector_size(bytes / 2)));  // the bits of as many bf16 as a pack has floats

[[gnu::always_inline]] inline Pack<float> widen(Halves low) {
  return std::bit_cast<Pack<float>>(__builtin_convertvector(low, Pack<std::uint32_t>) << 16);
}
// The instruction also makes results below the normal range zero.
[[gnu::always_inline]] inline Halves narrow(Pack<float> pack) {
#if defined(__AVX512BF16__)
  return std::bit_cast<Halves>(_mm512_cvtneps_pbh(pack));
#else
  const auto all = std::bit_cast<Pack<std::uint32_t>>(pack);
  const Pack<std::uint32_t> rounded = (all + 0x7FFFu + (all >> 16 & 1u)) >> 16, quiet = all >> 16 | 0x40u;
  return __builtin_convertvector((all & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded, Halves);
#endif
}

}  // namespace detail

template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> load(const Scalar* from) {
  std::conditional_t<std::is_same_v<Scalar, bf16>, detail::Halves, Pack<Scalar>> pack;
  std::memcpy(&pack, from, sizeof(pack));
  if constexpr (std::is_same_v<Scalar, bf16>)
    return detail::widen(pack);
  else
    return pack;
}

template <class Scalar>
[[gnu::always_inline]] inline void store(Scalar* to, Pack<Scalar> pack) {
  if constexpr (std::is_same_v<Scalar, bf16>) {
    const detail::Halves low = detail::narrow(pack);
    std::memcpy(static_cast<void*>(to), &low, sizeof(low));
  } else {
    std::memcpy(to, &pack, bytes);
  }
}

// A pack with `value` in every element.
template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> fill(Accumulator<Scalar> value) {
  return Pack<Scalar>{} + value;
}

// Bytes of `count` elements, at most those of a pack. Without the bound the compiler warns of a copy beyond the pack.
template <class Scalar>
[[gnu::always_inline]] inline std::size_t part_bytes(index count) {
  return static_cast<std::size_t>(count < lanes<Scalar> ? count : lanes<Scalar>) * sizeof(Scalar);
}

// The first `count` elements from memory, the others zero. 0 <= count <= lanes.
template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> load_part(const Scalar* from, index count) {
  Scalar whole[lanes<Scalar>]{};
  std::memcpy(whole, from, part_bytes<Scalar>(count));
  return load<Scalar>(whole);
}

// Stores the first `count` elements. 0 <= count <= lanes.
template <class Scalar>
[[gnu::always_inline]] inline void store_part(Scalar* to, Pack<Scalar> pack, index count) {
  Scalar whole[lanes<Scalar>];
  store<Scalar>(whole, pack);
  std::memcpy(static_cast<void*>(to), whole, part_bytes<Scalar>(count));
}

// The sum of all elements, in a fixed order.
template <class Scalar>
[[gnu::always_inline]] inline Accumulator<Scalar> sum(Pack<Scalar> pack) {
  Accumulator<Scalar> values[lanes<Scalar>];
  store(values, pack);
  for (index half = lanes<Scalar> / 2; half > 0; half /= 2)
    for (index lane = 0; lane < half; ++lane) values[lane] += values[lane + half];
  return values[0];
}

// The maximum of a and b, element by element.
template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> larger(Pack<Scalar> a, Pack<Scalar> b) {
  return a > b ? a : b;
}

// The largest element.
template <class Scalar>
[[gnu::always_inline]] inline Accumulator<Scalar> largest(Pack<Scalar> pack) {
  Accumulator<Scalar> values[lanes<Scalar>];
  store(values, pack);
  for (index half = lanes<Scalar> / 2; half > 0; half /= 2)
    for (index lane = 0; lane < half; ++lane)
      values[lane] = values[lane] > values[lane + half] ? values[lane] : values[lane + half];
  return values[0];
}

// True if an element of the mask is true.
template <class Scalar>
[[nodiscard, gnu::always_inline]] inline bool any(Mask<Scalar> mask) {
  bool found = false;
  for (index lane = 0; lane < lanes<Scalar>; ++lane) found |= mask[lane] != 0;
  return found;
}

// y[i] = f(x0[i], x1[i], ...) for i in [0, count). f takes and returns packs. y may be one of the inputs. Inputs and y
// may be of different types with the same pack.
template <class Scalar, class Function, class... Inputs>
[[gnu::always_inline]] inline void transform(index count, Scalar* y, Function&& f, const Inputs*... x) {
  index i = 0;
  for (; i + lanes<Scalar> <= count; i += lanes<Scalar>) store<Scalar>(y + i, f(load<Inputs>(x + i)...));
  if (i < count) store_part<Scalar>(y + i, f(load_part<Inputs>(x + i, count - i)...), count - i);
}

// The sum over i in [0, count) of f(x0[i], x1[i], ...), in a fixed order. f must give 0 for zeros.
template <class Scalar, class Function, class... Inputs>
[[nodiscard, gnu::always_inline]] inline Accumulator<Scalar> reduce(index count, Function&& f, const Scalar* first,
                                                                    const Inputs*... rest) {
  constexpr index width = lanes<Scalar>;
  Pack<Scalar> even{}, odd{};
  index i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    even += f(load<Scalar>(first + i), load<Inputs>(rest + i)...);
    odd += f(load<Scalar>(first + i + width), load<Inputs>(rest + i + width)...);
  }
  if (i + width <= count) {
    even += f(load<Scalar>(first + i), load<Inputs>(rest + i)...);
    i += width;
  }
  if (i < count) odd += f(load_part<Scalar>(first + i, count - i), load_part<Inputs>(rest + i, count - i)...);
  return sum<Scalar>(even + odd);
}

}  // namespace simd
}  // namespace TESSERA_ABI
}  // namespace tessera
