// Optimizers: each a policy with its hyper-parameters as members and `states` flat buffers beside the weights; an
// update needs whole tensors if it depends on more than the element.
#pragma once

#include <array>
#include <cmath>
#include <span>

#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/update.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace optim {

// One step's operands. Frozen entries are left alone, and everything is if *blocked is not 0. Gradient and weight are
// whole flat buffers, the states are those of the parts. All but the tables is memory of the backend.
template <class Scalar, class Coefficients, int states>
struct Update {
  std::span<const Entry> entries;
  std::span<const Part> parts;
  const Coefficients* coefficients;
  const double* blocked;
  const Accumulator<Scalar>* gradient;
  Parameter<Scalar> weight;
  std::array<Accumulator<Scalar>*, states> state;
};

namespace detail {

// Calls body(offset, size, state offset, entry) for every trained entry; parts must end between entries.
template <class Body>
void for_trained(std::span<const Entry> entries, std::span<const Part> parts, Body&& body) {
  for (const Part& part : parts)
    for (const Entry& entry : entries)
      if (entry.role == Role::trained && entry.offset >= part.first && entry.offset < part.last)
        body(entry.offset, entry.size(), part.state + entry.offset - part.first, entry);
}

// Calls body(offset, size) for every stretch of trained entries, the zero gaps between them included.
template <class Body>
void for_trained_stretches(std::span<const Entry> entries, Body&& body) {
  index first = -1, end = -1;
  for (const Entry& entry : entries) {
    if (entry.role == Role::trained && first < 0) first = entry.offset;
    if (entry.role == Role::trained) end = entry.offset + entry.size();
    if (entry.role == Role::frozen && first >= 0) {
      body(first, end - first);
      first = -1;
    }
  }
  if (first >= 0) body(first, end - first);
}
// Calls body(offset, size, state offset) for what of the stretches lies in the parts.
template <class Body>
void for_trained_stretches(std::span<const Entry> entries, std::span<const Part> parts, Body&& body) {
  for_trained_stretches(entries, [&](index at, index size) {
    for (const Part& part : parts) {
      const index first = larger(at, part.first), last = smaller(at + size, part.last);
      if (first < last) body(first, last - first, part.state + first - part.first);
    }
  });
}

}  // namespace detail

// Adam's coefficients at step 1, 2, ...
[[nodiscard]] inline AdamCoefficients adam_coefficients(double learning_rate, double weight_decay, double beta1,
                                                        double beta2, double epsilon, long step) {
  return {learning_rate,
          weight_decay,
          beta1,
          beta2,
          epsilon,
          1.0 / (1.0 - std::pow(beta1, step)),
          1.0 / (1.0 - std::pow(beta2, step))};
}

// AdamW with decoupled weight decay on every trained tensor, biases and gains included (docs/method.md, 4.1).
struct AdamW {
  static constexpr const char* name = "adamw";
  static constexpr int states = 2;
  static constexpr bool whole_tensors = false;
  using Coefficients = AdamCoefficients;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  [[nodiscard]] Coefficients coefficients(double learning_rate, long step) const {
    return adam_coefficients(learning_rate, weight_decay, beta1, beta2, epsilon, step);
  }

  template <class Backend, class Scalar>
  static void step(Backend& backend, const Update<Scalar, Coefficients, states>& u) {
    detail::for_trained_stretches(u.entries, u.parts, [&](index at, index size, index state) {
      adamw_update(backend, size, u.coefficients, u.blocked, u.gradient + at, u.weight + at, u.state[0] + state,
                   u.state[1] + state);
    });
  }
};

// Momentum SGD with a rate for each tensor; tensors of at most one dimension get neither decay nor that rate
// (docs/method.md, 4.3).
struct Lars {
  static constexpr const char* name = "lars";
  static constexpr int states = 1;
  static constexpr bool whole_tensors = true;  // norms of tensors
  using Coefficients = SgdCoefficients;
  double weight_decay = 1e-6, momentum = 0.9, trust = 0.001;

  [[nodiscard]] Coefficients coefficients(double learning_rate, long) const {
    return {learning_rate, weight_decay, momentum, trust};
  }

  template <class Backend, class Scalar>
  static void step(Backend& backend, const Update<Scalar, Coefficients, states>& u) {
    detail::for_trained(u.entries, u.parts, [&](index at, index size, index state, const Entry& entry) {
      lars_update(backend, size, u.coefficients, u.blocked, entry.shape.rank > 1, u.gradient + at, u.weight + at,
                  u.state[0] + state);
    });
  }
};

// Adam's direction with decoupled decay, scaled for each tensor by |weight| / |direction| (docs/method.md, 4.4),
// without the global clipping of timm's variant.
struct Lamb {
  static constexpr const char* name = "lamb";
  static constexpr int states = 3;             // two moments and the direction
  static constexpr bool whole_tensors = true;  // norms of tensors
  using Coefficients = AdamCoefficients;
  double weight_decay = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6;

  [[nodiscard]] Coefficients coefficients(double learning_rate, long step) const {
    return adam_coefficients(learning_rate, weight_decay, beta1, beta2, epsilon, step);
  }

  template <class Backend, class Scalar>
  static void step(Backend& backend, const Update<Scalar, Coefficients, states>& u) {
    detail::for_trained(u.entries, u.parts, [&](index at, index size, index state, const Entry&) {
      lamb_update(backend, size, u.coefficients, u.blocked, u.gradient + at, u.weight + at, u.state[0] + state,
                  u.state[1] + state, u.state[2] + state);
    });
  }
};

// Momentum SGD with coupled weight decay; no dampening, no Nesterov (docs/method.md, 4.2).
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr int states = 1;
  static constexpr bool whole_tensors = false;
  using Coefficients = SgdCoefficients;
  double weight_decay = 0, momentum = 0.9;

  [[nodiscard]] Coefficients coefficients(double learning_rate, long) const {
    return {learning_rate, weight_decay, momentum, 0};
  }

  template <class Backend, class Scalar>
  static void step(Backend& backend, const Update<Scalar, Coefficients, states>& u) {
    detail::for_trained_stretches(u.entries, u.parts, [&](index at, index size, index state) {
      sgd_update(backend, size, u.coefficients, u.blocked, u.gradient + at, u.weight + at, u.state[0] + state);
    });
  }
};

}  // namespace optim
}  // namespace TESSERA_ABI
}  // namespace tessera
