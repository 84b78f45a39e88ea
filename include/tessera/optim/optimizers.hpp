// Optimizers: each a policy with its hyper-parameters as members and `states` flat buffers beside the weights.
#pragma once

#include <array>
#include <span>

#include "tessera/core/layout.hpp"
#include "tessera/core/update.hpp"

namespace tessera::inline TESSERA_ABI::optim {

// One step's operands. Frozen entries are left alone.
template <class Scalar, int states>
struct Update {
  std::span<const Entry> entries;
  const Scalar* gradient;
  Scalar* weight;
  std::array<Scalar*, states> state;
  double learning_rate;
  long step;  // 1, 2, ...
};

namespace detail {

// Calls body(offset, size, entry) for every trained entry.
template <class Body>
void for_trained(std::span<const Entry> entries, Body&& body) {
  for (const Entry& entry : entries)
    if (entry.role == Role::trained) body(entry.offset, entry.size(), entry);
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

}  // namespace detail

// AdamW with decoupled weight decay on every trained tensor, biases and gains included (spec 4.2).
struct AdamW {
  static constexpr const char* name = "adamw";
  static constexpr int states = 2;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  template <class Backend, class Scalar>
  void step(Backend& backend, const Update<Scalar, states>& u) const {
    const AdamCoefficients c{u.learning_rate, weight_decay, beta1, beta2, epsilon, u.step};
    detail::for_trained_stretches(u.entries, [&](index at, index size) {
      adamw_update(backend, size, c, u.gradient + at, u.weight + at, u.state[0] + at, u.state[1] + at);
    });
  }
};

// Momentum SGD with a rate for each tensor; tensors of at most one dimension get neither decay nor that rate
// (spec 4.3).
struct Lars {
  static constexpr const char* name = "lars";
  static constexpr int states = 1;
  double weight_decay = 1e-6, momentum = 0.9, trust = 0.001;

  template <class Backend, class Scalar>
  void step(Backend& backend, const Update<Scalar, states>& u) const {
    detail::for_trained(u.entries, [&](index at, index size, const Entry& entry) {
      const Scalar* const gradient = u.gradient + at;
      Scalar* const weight = u.weight + at;
      Scalar* const velocity = u.state[0] + at;
      double rate = 1, decay = 0;
      if (entry.shape.rank > 1) {
        decay = weight_decay;
        const double weight_norm = norm(backend, size, static_cast<const Scalar*>(weight));
        const double update_norm = norm(backend, size, gradient, decay, static_cast<const Scalar*>(weight));
        if (weight_norm > 0 && update_norm > 0) rate = trust * weight_norm / update_norm;
      }
      scale_and_add(backend, size, rate, gradient, momentum, velocity);
      if (decay != 0) scale_and_add(backend, size, rate * decay, static_cast<const Scalar*>(weight), 1.0, velocity);
      scale_and_add(backend, size, -u.learning_rate, static_cast<const Scalar*>(velocity), 1.0, weight);
    });
  }
};

// Adam's direction with decoupled decay, scaled for each tensor by |weight| / |direction| (spec 4.4), without the
// global clipping of timm's variant.
struct Lamb {
  static constexpr const char* name = "lamb";
  static constexpr int states = 3;  // two moments and the direction
  double weight_decay = 1e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6;

  template <class Backend, class Scalar>
  void step(Backend& backend, const Update<Scalar, states>& u) const {
    const AdamCoefficients c{u.learning_rate, weight_decay, beta1, beta2, epsilon, u.step};
    detail::for_trained(u.entries, [&](index at, index size, const Entry&) {
      Scalar* const weight = u.weight + at;
      Scalar* const direction = u.state[2] + at;
      lamb_direction(backend, size, c, u.gradient + at, static_cast<const Scalar*>(weight), u.state[0] + at,
                     u.state[1] + at, direction);
      const double weight_norm = norm(backend, size, static_cast<const Scalar*>(weight));
      const double direction_norm = norm(backend, size, static_cast<const Scalar*>(direction));
      const double rate = weight_norm > 0 && direction_norm > 0 ? weight_norm / direction_norm : 1;
      scale_and_add(backend, size, -u.learning_rate * rate, static_cast<const Scalar*>(direction), 1.0, weight);
    });
  }
};

// Momentum SGD with coupled weight decay; no dampening, no Nesterov (spec 4.5).
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr int states = 1;
  double weight_decay = 0, momentum = 0.9;

  template <class Backend, class Scalar>
  void step(Backend& backend, const Update<Scalar, states>& u) const {
    detail::for_trained_stretches(u.entries, [&](index at, index size) {
      scale_and_add(backend, size, 1.0, u.gradient + at, momentum, u.state[0] + at);
      if (weight_decay != 0)
        scale_and_add(backend, size, weight_decay, static_cast<const Scalar*>(u.weight + at), 1.0, u.state[0] + at);
      scale_and_add(backend, size, -u.learning_rate, static_cast<const Scalar*>(u.state[0] + at), 1.0, u.weight + at);
    });
  }
};

}  // namespace tessera::inline TESSERA_ABI::optim
