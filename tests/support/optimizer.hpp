// One step of an optimizer on a layer, on the CPU in double.
#pragma once

#include <vector>

#include "tessera/cpu/cpu.hpp"
#include "tessera/nn/linear.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {

// A weight (2 x 3) and a bias (2), behind it in the flat buffer.
using Layer = nn::Linear<3, 2>;
inline constexpr index bias = entry_alignment;

// Flat buffers of a layout, and one step after another.
class Steps {
 public:
  using Backend = cpu::Backend<double, cpu::EigenMatmul>;

  // Weights of 0.5, states of 0.
  template <class Rule>
  explicit Steps(Rule rule, const optim::Grouping& grouping = optim::uniform(),
                 std::span<const Entry> entries = Layout<Layer>::entries, index parameters = Layout<Layer>::parameters)
      : updater(rule),
        entries_(entries),
        groups_(optim::groups_of(entries, grouping)),
        parts{{0, parameters, 0}},
        weight(static_cast<std::size_t>(parameters), 0.5),
        states(static_cast<std::size_t>(updater.states()), std::vector<double>(weight.size())) {}

  void step(const std::vector<double>& gradient, double learning_rate = 0.1) {
    const optim::StepCoefficients coefficients = updater.coefficients(learning_rate, ++steps_);
    std::vector<double*> pointers;
    for (auto& state : states) pointers.push_back(state.data());
    const optim::Update<double> update{entries_,  groups_,         parts,         &coefficients, &blocked,
                                       &overflow, gradient.data(), weight.data(), pointers};
    if (backend_.planning()) {
      updater.step(backend_, update);
      backend_.arena().commit();
    }
    updater.step(backend_, update);
  }
  // A gradient that is everywhere the same.
  void step(double gradient) { step(std::vector<double>(weight.size(), gradient)); }

  optim::Updater<Backend> updater;
  double blocked = 0, overflow = 0;

 private:
  std::span<const Entry> entries_;
  std::vector<optim::Group> groups_;
  Backend backend_{1};
  long steps_ = 0;

 public:
  std::vector<Part> parts;
  std::vector<double> weight;
  std::vector<std::vector<double>> states;
};

// The weights after one step with a gradient that is everywhere the same, at a learning rate of 0.1.
template <class Rule>
std::vector<double> one_step(Rule rule, double gradient, const optim::Grouping& grouping = optim::uniform()) {
  Steps steps(rule, grouping);
  steps.step(gradient);
  return steps.weight;
}

}  // namespace tessera::test
