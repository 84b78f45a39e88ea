// One training step after another: buffers, planning, gradients, update.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/context.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/models/initialize.hpp"
#include "tessera/optim/optimizers.hpp"

namespace tessera::inline TESSERA_ABI {

// What changes from step to step.
template <class Method>
struct StepSettings {
  double learning_rate = 0;
  typename Method::Coefficients coefficients{};
  bool frozen_gradients = false;  // also compute the gradients of frozen tensors, to look at them
};

// One tensor of a trainer under its public name.
template <class Scalar>
struct NamedTensor {
  std::string name;
  Shape shape;
  Scalar* data;
};

namespace detail {

// Appends the tensors of one network or state. A null buffer leaves its tensors out; without `frozen` those without a
// gradient are left out too.
template <class Scalar>
void append_tensors(std::span<const Entry> entries, const std::string& prefix, bool frozen, Scalar* parameters,
                    Scalar* statistics, std::vector<NamedTensor<Scalar>>& tensors) {
  for (const Entry& entry : entries) {
    Scalar* const base = entry.role == Role::statistic ? statistics : parameters;
    if (base == nullptr || (entry.role == Role::frozen && !frozen)) continue;
    tensors.push_back({prefix + std::string(entry.name.view()), entry.shape, base + entry.offset});
  }
}

// Throws Error, which names the first tensor, if a gradient is not finite.
template <class Backend, class Scalar>
void check_gradient(Backend& backend, std::span<const Entry> entries, index size, const Scalar* gradient, long step) {
  if (all_finite(backend, size, gradient)) return;
  for (const Entry& entry : entries)
    if (entry.role == Role::trained && !all_finite(backend, entry.size(), gradient + entry.offset))
      fail(
          "step {}: the gradient of '{}' is not finite; weights were left as they were (try a smaller --lr, a longer "
          "--warmup-epochs or --stop-grad-conv1)",
          step, entry.name.view());
}

// The norm of the gradient over the tensors whose name starts with `prefix`.
template <class Backend, class Scalar>
double gradient_norm(Backend& backend, std::span<const Entry> entries, std::string_view prefix,
                     const Scalar* gradient) {
  double squares = 0;
  for (const Entry& entry : entries) {
    if (entry.role == Role::statistic || !entry.name.view().starts_with(prefix)) continue;
    const double one = norm(backend, entry.size(), gradient + entry.offset);
    squares += one * one;
  }
  return std::sqrt(squares);
}

}  // namespace detail

// Owns the networks, gradients and optimizer state of a Method, in flat buffers that Layout<Method> describes.
template <class Method_, class Optimizer_, class Backend_, class Communicator_>
class Trainer {
 public:
  using Method = Method_;
  using Optimizer = Optimizer_;
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Scalar = typename Backend::Scalar;
  using Student = Layout<Method>;
  using Teacher = Layout<typename Method::Teacher>;
  template <class Element>
  using Buffer = typename Backend::template Buffer<Element>;

  // Networks start from the seed; the teacher starts as the student. batch: images per step on this rank.
  // Throws Error if the batch is too small for BatchNorm or the memory too small for the batch.
  Trainer(Backend& backend, Communicator& communicator, Optimizer optimizer, index batch, std::uint64_t seed)
      : backend_(backend), communicator_(communicator), optimizer_(optimizer), batch_(batch) {
    if (batch * communicator.size() < 2)
      fail("a batch of {} image(s) is too small: BatchNorm in the heads needs at least 2 images", batch);
    initialize(std::span<const Entry>(Student::entries), seed, student_.data(), student_statistics_.data());
    std::copy_n(student_.data(), Teacher::parameters, teacher_.data());
    std::copy_n(student_statistics_.data(), Teacher::statistics, teacher_statistics_.data());
    plan();
  }

  [[nodiscard]] index batch() const noexcept { return batch_; }
  [[nodiscard]] long steps() const noexcept { return steps_; }
  [[nodiscard]] index activation_bytes() const { return backend_.arena().peak_bytes(); }
  [[nodiscard]] static constexpr index parameter_bytes() {
    return static_cast<index>(sizeof(Scalar)) * ((2 + Optimizer::states) * Student::parameters + Teacher::parameters +
                                                 Student::statistics + Teacher::statistics);
  }

  // One step on the stacked views (views * batch images). Returns the loss. Nothing is changed but the momentum encoder
  // and the BatchNorm statistics if the loss or a gradient is not finite: then an Error names the first such tensor.
  double step(Rows<const Scalar, Method::in> images, const StepSettings<Method>& settings) {
    auto context = this->context();
    context.frozen_gradients = settings.frozen_gradients;
    const auto frame = context.frame();
    const auto result = Method::step(context, state(), images, settings.coefficients);
    check_finite(result.loss);
    ++steps_;
    std::array<Scalar*, Optimizer::states> buffers;
    for (std::size_t i = 0; i < buffers.size(); ++i) buffers[i] = optimizer_state_[i].data();
    optimizer_.step(
        backend_, optim::Update<Scalar, Optimizer::states>{Student::entries, gradient_.data(), student_.data(), buffers,
                                                           settings.learning_rate, steps_});
    return result.loss;
  }

  // features (images x Encoder::out) of the base encoder in evaluation mode.
  void encode(Rows<const Scalar, Method::in> images, Rows<Scalar, Method::Encoder::out> features) {
    auto context = this->context();
    context.mode = Mode::evaluate;
    context.views = 1;
    Method::Encoder::encode(context, bind<Method>(student_.data(), student_statistics_.data()).base_encoder.encoder,
                            images, features);
  }

  // Attention weights of a block of the base encoder (images*heads*tokens x tokens), in evaluation mode. Takes at most
  // as many images as a step.
  void attention(Rows<const Scalar, Method::in> images, int block, Rows<Scalar, Method::Encoder::tokens> weights) {
    auto context = this->context();
    context.mode = Mode::evaluate;
    context.views = 1;
    Method::Encoder::encode_attention(context,
                                      bind<Method>(student_.data(), student_statistics_.data()).base_encoder.encoder,
                                      images, block, weights);
  }

  // The norm of the gradient of the last step over the tensors whose name starts with `prefix`.
  [[nodiscard]] double gradient_norm(std::string_view prefix) {
    return detail::gradient_norm<Backend, Scalar>(backend_, Student::entries, prefix, gradient_.data());
  }

  // Every tensor that a resumed run needs: both networks under their public names, and the optimizer's buffers as
  // optimizer.<number>.<name>.
  [[nodiscard]] std::vector<NamedTensor<Scalar>> tensors() {
    std::vector<NamedTensor<Scalar>> all;
    detail::append_tensors<Scalar>(Student::entries, "", true, student_.data(), student_statistics_.data(), all);
    detail::append_tensors<Scalar>(Teacher::entries, "", true, teacher_.data(), teacher_statistics_.data(), all);
    for (std::size_t i = 0; i < optimizer_state_.size(); ++i)
      detail::append_tensors<Scalar>(Student::entries, "optimizer." + std::to_string(i) + ".", false,
                                     optimizer_state_[i].data(), nullptr, all);
    return all;
  }

  // Continues as if `steps` steps had been made; for resuming.
  void set_steps(long steps) noexcept { steps_ = steps; }

  // The flat buffers, for tests and tools.
  [[nodiscard]] typename Method::template State<Scalar> state() {
    return {student_.data(), gradient_.data(), teacher_.data(), student_statistics_.data(), teacher_statistics_.data()};
  }

 private:
  [[nodiscard]] auto context() { return Context<Backend, Communicator>{backend_, communicator_}; }

  // Runs a step, and an evaluation of as many images, without computing: finds how much memory activations take.
  void plan() {
    backend_.arena().reset();
    {
      auto context = this->context();
      context.frozen_gradients = true;
      const auto frame = context.frame();
      Method::step(context, state(), Rows<const Scalar, Method::in>{nullptr, Method::views * batch_}, {});
    }
    encode({nullptr, Method::views * batch_}, {nullptr, Method::views * batch_});
    backend_.arena().commit();
  }

  void check_finite(double loss) {
    if (!math::all_finite(&loss, 1))
      fail(
          "step {}: the loss is not a finite number; weights were left as they were (try a smaller --lr, a longer "
          "--warmup-epochs or --stop-grad-conv1)",
          steps_ + 1);
    detail::check_gradient<Backend, Scalar>(backend_, Student::entries, gradient_.size(), gradient_.data(), steps_ + 1);
  }

  Backend& backend_;
  Communicator& communicator_;
  Optimizer optimizer_;
  index batch_;
  long steps_ = 0;
  Buffer<Scalar> student_{Student::parameters}, gradient_{Student::parameters}, teacher_{Teacher::parameters};
  Buffer<Scalar> student_statistics_{Student::statistics}, teacher_statistics_{Teacher::statistics};
  std::array<Buffer<Scalar>, Optimizer::states> optimizer_state_ =
      make_states(std::make_index_sequence<Optimizer::states>{});

  template <std::size_t... i>
  static auto make_states(std::index_sequence<i...>) {
    return std::array<Buffer<Scalar>, Optimizer::states>{
        (static_cast<void>(i), Buffer<Scalar>(Student::parameters))...};
  }
};

}  // namespace tessera::inline TESSERA_ABI
