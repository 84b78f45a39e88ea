// Packs: GCC vector types of one register of the target.
//
// An element-wise function is written once, as a generic functor: the CPU calls it with packs, a device with scalars.
// Packs have + - * / and comparisons, element by element, also with a scalar on one side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

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

template <class Scalar>
struct PackOf {
  typedef Scalar type __attribute__((vector_size(bytes)));
};

template <class Scalar>
using Pack = typename PackOf<Scalar>::type;

// Elements of a pack.
template <class Scalar>
inline constexpr index lanes = bytes / sizeof(Scalar);

// decltype(scalar_of(x)) is the scalar type of the pack or scalar x. Declarations only.
float scalar_of(Pack<float>);
double scalar_of(Pack<double>);
float scalar_of(float);
double scalar_of(double);

// The integer pack that a comparison of packs gives: -1 where true, 0 where false.
template <class Scalar>
using Mask = Pack<std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int64_t>>;

template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> load(const Scalar* from) {
  Pack<Scalar> pack;
  std::memcpy(&pack, from, bytes);
  return pack;
}

template <class Scalar>
[[gnu::always_inline]] inline void store(Scalar* to, Pack<Scalar> pack) {
  std::memcpy(to, &pack, bytes);
}

// A pack with `value` in every element.
template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> fill(Scalar value) {
  return Pack<Scalar>{} + value;
}

// Bytes of `count` elements, at most those of a pack. Without the bound the compiler warns of a copy beyond the pack.
template <class Scalar>
[[gnu::always_inline]] inline std::size_t part_bytes(index count) {
  return count < lanes<Scalar> ? static_cast<std::size_t>(count) * sizeof(Scalar) : bytes;
}

// The first `count` elements from memory, the others zero. 0 <= count <= lanes.
template <class Scalar>
[[gnu::always_inline]] inline Pack<Scalar> load_part(const Scalar* from, index count) {
  Pack<Scalar> pack{};
  std::memcpy(&pack, from, part_bytes<Scalar>(count));
  return pack;
}

// Stores the first `count` elements. 0 <= count <= lanes.
template <class Scalar>
[[gnu::always_inline]] inline void store_part(Scalar* to, Pack<Scalar> pack, index count) {
  std::memcpy(to, &pack, part_bytes<Scalar>(count));
}

// The sum of all elements, in a fixed order.
template <class Scalar>
[[gnu::always_inline]] inline Scalar sum(Pack<Scalar> pack) {
  Scalar values[lanes<Scalar>];
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
[[gnu::always_inline]] inline Scalar largest(Pack<Scalar> pack) {
  Scalar values[lanes<Scalar>];
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

// y[i] = f(x0[i], x1[i], ...) for i in [0, count). f takes and returns packs. y may be one of the inputs.
template <class Scalar, class Function, class... Inputs>
[[gnu::always_inline]] inline void transform(index count, Scalar* y, Function&& f, const Inputs*... x) {
  index i = 0;
  for (; i + lanes<Scalar> <= count; i += lanes<Scalar>) store<Scalar>(y + i, f(load<Scalar>(x + i)...));
  if (i < count) store_part<Scalar>(y + i, f(load_part<Scalar>(x + i, count - i)...), count - i);
}

// The sum over i in [0, count) of f(x0[i], x1[i], ...), in a fixed order. f must give 0 for zeros.
template <class Scalar, class Function, class... Inputs>
[[nodiscard, gnu::always_inline]] inline Scalar reduce(index count, Function&& f, const Scalar* first,
                                                       const Inputs*... rest) {
  constexpr index width = lanes<Scalar>;
  Pack<Scalar> even{}, odd{};
  index i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    even += f(load<Scalar>(first + i), load<Scalar>(rest + i)...);
    odd += f(load<Scalar>(first + i + width), load<Scalar>(rest + i + width)...);
  }
  if (i + width <= count) {
    even += f(load<Scalar>(first + i), load<Scalar>(rest + i)...);
    i += width;
  }
  if (i < count) odd += f(load_part<Scalar>(first + i, count - i), load_part<Scalar>(rest + i, count - i)...);
  return sum<Scalar>(even + odd);
}

}  // namespace simd
}  // namespace TESSERA_ABI
}  // namespace tessera
