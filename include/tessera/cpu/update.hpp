// Passes over flat buffers: moving averages, optimizer updates, norms.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>

#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/backend.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

namespace detail {

inline constexpr index update_grain = 1 << 14;

// The copy of the values [first, last), where a parameter has one.
template <class Scalar>
void copy_to_low(Scalar*, index, index) {}
template <class Low>
void copy_to_low(MasterAndCopy<Low> values, index first, index last) {
  simd::transform(
      last - first, values.copy + first, [](auto a) { return a; }, static_cast<const float*>(values.master) + first);
}

}  // namespace detail

template <class Scalar, class Matmul>
void copy_to_low(Backend<Scalar, Matmul>& backend, index count, MasterAndCopy<Scalar> values) {
  backend.for_pieces(count, detail::update_grain,
                     [&](index first, index last, int) { detail::copy_to_low(values, first, last); });
}

template <class Scalar, class Matmul>
void moving_average(Backend<Scalar, Matmul>& backend, index count, const double* m, const Accumulator<Scalar>* x,
                    Parameter<Scalar> average) {
  using Sum = Accumulator<Scalar>;
  backend.compute([&] {
    const Sum keep = static_cast<Sum>(*m), take = static_cast<Sum>(1.0 - *m);
    Sum* const values = average;
    backend.for_pieces(count, detail::update_grain, [&](index first, index last, int) {
      simd::transform(
          last - first, values + first, [=](auto a, auto b) { return keep * a + take * b; }, values + first, x + first);
      detail::copy_to_low(average, first, last);
    });
  });
}

template <class Scalar, class Matmul>
void check_finite(Backend<Scalar, Matmul>& backend, index count, const Accumulator<Scalar>* values, const double* loss,
                  double* blocked) {
  backend.compute([&] { *blocked = math::all_finite(loss, 1) && math::all_finite(values, count) ? 0 : 1; });
}

namespace detail {

// Access to the lanes of a whole pack, and to the first `count` lanes of one.
struct WholePack {
  template <class Scalar>
  [[gnu::always_inline]] static simd::Pack<Scalar> load(const Scalar* from) {
    return simd::load(from);
  }
  template <class Scalar>
  [[gnu::always_inline]] static void store(Scalar* to, simd::Pack<Scalar> pack) {
    simd::store(to, pack);
  }
  template <class Scalar>
  [[nodiscard, gnu::always_inline]] static simd::Pack<Scalar> clear_rest(simd::Pack<Scalar> pack) {
    return pack;
  }
};
struct PackPart {
  index count;

  template <class Scalar>
  [[gnu::always_inline]] simd::Pack<Scalar> load(const Scalar* from) const {
    return simd::load_part(from, count);
  }
  template <class Scalar>
  [[gnu::always_inline]] void store(Scalar* to, simd::Pack<Scalar> pack) const {
    simd::store_part(to, pack, count);
  }
  // Makes the other lanes zero.
  template <class Scalar>
  [[nodiscard, gnu::always_inline]] simd::Pack<Scalar> clear_rest(simd::Pack<Scalar> pack) const {
    Scalar lanes[simd::lanes<Scalar>]{};
    simd::store_part<Scalar>(lanes, pack, count);
    return simd::load(lanes);
  }
};

// Marks in `wrong` the elements of a pack that are not finite. Its other lanes do not count.
template <class Scalar, class Access>
[[gnu::always_inline]] inline void mark(Access access, simd::Pack<Scalar> pack, simd::Mask<Scalar>& wrong) {
  wrong |= math::not_finite<Scalar>(access.template clear_rest<Scalar>(pack));
}

// *overflow = 1 if an element is marked. Pieces that run on several threads share it.
template <class Scalar>
void tell(simd::Mask<Scalar> wrong, double* overflow) {  // NOLINT(readability-non-const-parameter)
  if (simd::any<Scalar>(wrong)) std::atomic_ref<double>(*overflow).store(1, std::memory_order_relaxed);
}

// Rule::update of the pack at `at`, with the states of the sequence. `source`: the gradient, or the direction. Results
// that are not finite are marked in `wrong`.
template <class Rule, class Scalar, class Weight, class Access, class Factors, std::size_t... state>
[[gnu::always_inline]] inline void update_pack(const Factors& f, index at, Access access, const Scalar* source,
                                               Weight weight, [[maybe_unused]] Scalar* const* states,
                                               simd::Mask<Scalar>& wrong, std::index_sequence<state...>) {
  Scalar* const values = weight;
  simd::Pack<Scalar> w = access.load(values + at);
  const simd::Pack<Scalar> g = access.load(source + at);
  simd::Pack<Scalar> s[sizeof...(state) + 1] = {access.load(states[state] + at)...};
  Rule::update(f, w, g, s[state]...);
  access.store(values + at, w);
  if constexpr (!std::is_pointer_v<Weight>) access.store(weight.copy + at, w);
  (access.store(states[state] + at, s[state]), ...);
  mark<Scalar>(access, w, wrong);
  (mark<Scalar>(access, s[state], wrong), ...);
}

// Rule::update of all elements, in one pass.
template <class Rule, std::size_t moved, class Scalar, class Matmul, class Factors, std::size_t count>
void update_all(Backend<Scalar, Matmul>& backend, index size, const Factors& factors, const Accumulator<Scalar>* source,
                Parameter<Scalar> weight, const std::array<Accumulator<Scalar>*, count>& states, double* overflow) {
  using Sum = Accumulator<Scalar>;
  backend.for_pieces(size, update_grain, [&](index first, index last, int) {
    constexpr index width = simd::lanes<Scalar>;
    constexpr std::make_index_sequence<moved> sequence;
    const Factors f = factors;
    const std::array<Sum*, count> s = states;
    simd::Mask<Sum> wrong{};
    index at = first;
    for (; at + width <= last; at += width)
      update_pack<Rule, Sum>(f, at, WholePack{}, source, weight, s.data(), wrong, sequence);
    if (at < last) update_pack<Rule, Sum>(f, at, PackPart{last - at}, source, weight, s.data(), wrong, sequence);
    tell<Sum>(wrong, overflow);
  });
}

// Rule::direction of the pack at `at`, which moves the states of the sequence, if any, and is kept in the one behind.
// Those that are not finite are marked in `wrong`.
template <class Rule, class Scalar, class Access, class Factors, std::size_t... state>
[[gnu::always_inline]] inline simd::Pack<Scalar> direction_pack(const Factors& f, index at, Access access,
                                                                const Scalar* gradient, simd::Pack<Scalar> weight,
                                                                [[maybe_unused]] Scalar* const* states,
                                                                [[maybe_unused]] simd::Mask<Scalar>& wrong,
                                                                std::index_sequence<state...>) {
  const simd::Pack<Scalar> g = access.load(gradient + at);
  simd::Pack<Scalar> s[sizeof...(state) + 1] = {access.load(states[state] + at)...};
  const simd::Pack<Scalar> d = Rule::direction(f, weight, g, s[state]...);
  (access.store(states[state] + at, s[state]), ...);
  (mark<Scalar>(access, s[state], wrong), ...);
  if constexpr (Rule::keeps_direction) {
    access.store(states[sizeof...(state)] + at, d);
    mark<Scalar>(access, d, wrong);
  }
  return access.template clear_rest<Scalar>(d);
}

struct SquaredNorms {
  double weight = 0, direction = 0;
};
inline constexpr index norm_grain = 4096;

// Rule::direction of [first, last), and the sums of squares, in the order of simd::reduce.
template <class Rule, class Scalar, class Factors, std::size_t count>
[[nodiscard]] SquaredNorms find_direction(const Factors& f, index first, index last, const Scalar* gradient,
                                          const Scalar* weight, const std::array<Scalar*, count>& states,
                                          simd::Mask<Scalar>& wrong) {
  constexpr index width = simd::lanes<Scalar>;
  constexpr std::make_index_sequence<Rule::keeps_direction ? count - 1 : 0> sequence;
  simd::Pack<Scalar> weights[2]{}, directions[2]{};
  const auto add = [&](index at, auto access, int odd) __attribute__((always_inline)) {
    const simd::Pack<Scalar> w = access.load(weight + at);
    const simd::Pack<Scalar> d = direction_pack<Rule>(f, at, access, gradient, w, states.data(), wrong, sequence);
    const simd::Pack<Scalar> weight_square = w * w, direction_square = d * d;
    weights[odd] += weight_square;
    directions[odd] += direction_square;
  };
  index at = first;
  for (; at + 2 * width <= last; at += 2 * width) {
    add(at, WholePack{}, 0);
    add(at + width, WholePack{}, 1);
  }
  if (at + width <= last) {
    add(at, WholePack{}, 0);
    at += width;
  }
  if (at < last) add(at, PackPart{last - at}, 1);
  return {static_cast<double>(simd::sum<Scalar>(weights[0] + weights[1])),
          static_cast<double>(simd::sum<Scalar>(directions[0] + directions[1]))};
}

// Rule::direction of all elements, and the norms. pieces: room for the sums of every norm_grain elements.
template <class Rule, class Scalar, class Matmul, class Factors, std::size_t count>
[[nodiscard]] SquaredNorms find_direction(Backend<Scalar, Matmul>& backend, index size, const Factors& factors,
                                          const Accumulator<Scalar>* gradient, const Accumulator<Scalar>* weight,
                                          const std::array<Accumulator<Scalar>*, count>& states, double* overflow,
                                          SquaredNorms* pieces) {
  using Sum = Accumulator<Scalar>;
  static_assert(update_grain % norm_grain == 0);
  backend.for_pieces(size, update_grain, [&](index first, index last, int) {
    const Factors f = factors;
    const std::array<Sum*, count> s = states;
    simd::Mask<Sum> wrong{};
    for (index at = first; at < last; at += norm_grain)
      pieces[at / norm_grain] = find_direction<Rule>(f, at, smaller(at + norm_grain, last), gradient, weight, s, wrong);
    tell<Sum>(wrong, overflow);
  });
  SquaredNorms all;
  for (index piece = 0; piece < divide_up(size, norm_grain); ++piece) {
    all.weight += pieces[piece].weight;
    all.direction += pieces[piece].direction;
  }
  return all;
}

// The sum of squares, in double and in a fixed order.
template <class Scalar>
[[nodiscard]] double squares(index count, const Scalar* values) {
  double sum = 0;
  for (index first = 0; first < count; first += norm_grain)
    sum += static_cast<double>(simd::reduce(
        smaller(count - first, norm_grain), [](auto x) { return x * x; }, values + first));
  return sum;
}

}  // namespace detail

template <class Rule, class Scalar, class Matmul, class Group, std::size_t states>
void update_elements(Backend<Scalar, Matmul>& backend, index count, const typename Rule::Coefficients* coefficients,
                     const Group& group, const double* blocked, double* overflow, const Accumulator<Scalar>* gradient,
                     Parameter<Scalar> weight, const std::array<Accumulator<Scalar>*, states>& state) {
  backend.compute([&] {
    if (*blocked != 0) return;
    const auto factors = Rule::template factors<Accumulator<Scalar>>(*coefficients, group);
    detail::update_all<Rule, states>(backend, count, factors, gradient, weight, state, overflow);
  });
}

template <class Rule, class Scalar, class Matmul, class Group, std::size_t states>
void update_tensor(Backend<Scalar, Matmul>& backend, index count, const typename Rule::Coefficients* coefficients,
                   const Group& group, bool adapts, const double* blocked, double* overflow,
                   const Accumulator<Scalar>* gradient, Parameter<Scalar> weight,
                   const std::array<Accumulator<Scalar>*, states>& state) {
  const typename Backend<Scalar, Matmul>::Arena::Frame frame(backend.arena());
  auto* const pieces = backend.arena().template take<detail::SquaredNorms>(divide_up(count, detail::norm_grain));
  backend.compute([&] {
    if (*blocked != 0) return;
    double ratio = 1;
    if (adapts || Rule::keeps_direction) {
      const auto factors = Rule::template factors<Accumulator<Scalar>>(*coefficients, group, ratio);
      const detail::SquaredNorms squares =
          detail::find_direction<Rule>(backend, count, factors, gradient, weight, state, overflow, pieces);
      if (adapts) ratio = Rule::ratio(*coefficients, std::sqrt(squares.weight), std::sqrt(squares.direction));
    }
    const auto factors = Rule::template factors<Accumulator<Scalar>>(*coefficients, group, ratio);
    if constexpr (Rule::keeps_direction)
      detail::update_all<Rule, 0>(backend, count, factors, state[states - 1], weight, state, overflow);
    else
      detail::update_all<Rule, states>(backend, count, factors, gradient, weight, state, overflow);
  });
}

template <class Scalar, class Matmul>
void squared_norms(Backend<Scalar, Matmul>& backend, std::span<const Entry> entries, const Accumulator<Scalar>* values,
                   double* squares) {
  backend.compute([&] {
    for (const Entry& entry : entries)
      *squares++ = entry.role == Role::statistic ? 0.0 : detail::squares(entry.size(), values + entry.offset);
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
