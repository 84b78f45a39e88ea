// One training step after another: buffers, planning, gradients, update.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/comm/data_parallel.hpp"
#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/init.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/optim/rule.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// What changes from step to step.
template <class Method>
struct StepSettings {
  double learning_rate = 0;
  typename Method::Coefficients coefficients{};
  bool frozen_gradients = false;  // also compute the gradients of frozen tensors, to look at them
  bool stop = false;              // this rank wishes to stop after the step
};

// A loss or gradient is not a finite number.
class NotFinite : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return tessera::exit_code::not_finite; }
};

// One tensor of a trainer under its public name, in memory of the backend.
template <class Scalar>
struct NamedTensor {
  std::string name;
  Shape shape;
  Scalar* data;
};

namespace detail {

// The tensors of one network: master values, a copy of lower precision where products read one, statistics.
template <class Backend, class Model>
class Network {
 public:
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  static constexpr bool has_copy = !std::is_same_v<Scalar, Master>;
  static constexpr index bytes =
      static_cast<index>(sizeof(Master) + (has_copy ? sizeof(Scalar) : 0)) * Layout<Model>::parameters +
      static_cast<index>(sizeof(Master)) * Layout<Model>::statistics;

  [[nodiscard]] Parameter<Scalar> parameters() const {
    if constexpr (has_copy)
      return {master_.data(), copy_.data()};
    else
      return master_.data();
  }
  [[nodiscard]] Master* statistics() const { return statistics_.data(); }
  [[nodiscard]] auto bind() const { return tessera::bind<Model>(parameters(), statistics()); }

  // Makes the copy equal to the master values again.
  void refresh(Backend& backend) const {
    if constexpr (has_copy) copy_to_low(backend, Layout<Model>::parameters, parameters());
  }

 private:
  template <class Element>
  using Buffer = typename Backend::template Buffer<Element>;
  Buffer<Master> master_{Layout<Model>::parameters};
  Buffer<Scalar> copy_{has_copy ? Layout<Model>::parameters : 0};
  Buffer<Master> statistics_{Layout<Model>::statistics};
};

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

// The first trained tensor whose gradient is not finite, or null.
template <class Backend, class Scalar>
[[nodiscard]] const Entry* first_not_finite(const Backend& backend, std::span<const Entry> entries,
                                            const Scalar* gradient) {
  std::vector<Scalar> values;
  for (const Entry& entry : entries) {
    if (entry.role != Role::trained) continue;
    values.resize(static_cast<std::size_t>(entry.size()));
    backend.download(entry.size(), gradient + entry.offset, values.data());
    if (!math::all_finite(values.data(), entry.size())) return &entry;
  }
  return nullptr;
}

}  // namespace detail

// Owns the networks, gradients and optimizer state of a Method, in flat buffers that Layout<Method> describes. Several
// ranks, each with a share of the batch, train as one with all of it; Sharing tells what each keeps: comm::Replicated
// all of it, comm::ZeroStage1 a part of the optimizer's state.
//
// All ranks must call the same functions in the same order; `on all ranks` says which of them communicate.
template <class Method_, class Optimizer_, class Backend_, class Communicator_,
          template <class, class> class Sharing = comm::Replicated>
class Trainer {
  static_assert(
      tessera::Communicator<Communicator_, Backend_> && tessera::Communicator<Communicator_, typename Backend_::Lane>,
      "tessera: this communicator cannot move data of this backend: the CPU has comm::Threads and comm::Mpi, CUDA "
      "has comm::Nccl and comm::Staged");

 public:
  using Method = Method_;
  using Optimizer = Optimizer_;
  using Backend = Backend_;
  using Communicator = Communicator_;
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Student = Layout<Method>;
  using Teacher = Layout<typename Method::Teacher>;
  template <class Element>
  using Buffer = typename Backend::template Buffer<Element>;

  // Networks start from the seed; the teacher starts as the student. batch: images per step on this rank, as many on
  // every rank. bucket_bytes: how much of the gradient travels at a time while backward goes on. On all ranks.
  // Throws Error if the batch is too small for BatchNorm, or the memory too small for the batch.
  Trainer(Backend& backend, Communicator& communicator, Optimizer optimizer, index batch, std::uint64_t seed,
          index bucket_bytes = comm::default_bucket_bytes)
      : backend_(backend),
        communicator_(communicator),
        optimizer_(optimizer),
        batch_(batch),
        exchange_(backend, communicator, Student::entries, optimizer_.whole_tensors(), gradient_.data(),
                  Student::parameters, bucket_bytes) {
    if (batch * communicator.size() < 2)
      fail("a batch of {} image(s) is too small: BatchNorm in the heads needs at least 2 images", batch);
    start_networks(seed);
    plan();
    refresh();
  }

  [[nodiscard]] index batch() const noexcept { return batch_; }
  [[nodiscard]] long steps() const noexcept { return steps_; }
  [[nodiscard]] const Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] Communicator& communicator() const noexcept { return communicator_; }
  [[nodiscard]] index activation_bytes() const { return backend_.arena().peak_bytes(); }
  [[nodiscard]] index parameter_bytes() const {
    return detail::Network<Backend, Method>::bytes + detail::Network<Backend, typename Method::Teacher>::bytes +
           static_cast<index>(sizeof(Master)) * (Student::parameters + Optimizer::states * exchange_.state_size());
  }
  // Whether a rank wished to stop when it began the last step.
  [[nodiscard]] bool stop_wished() const noexcept { return stop_wished_; }

  // One step on the stacked views (views * batch images, in memory of the backend), on all ranks. Returns the loss of
  // the batch of all ranks. Nothing is changed but the momentum encoder and the BatchNorm statistics if the loss or a
  // gradient of any rank is not finite: then NotFinite names the first such tensor.
  double step(Rows<const Scalar, Method::in> images, const StepSettings<Method>& settings) {
    start(images, settings);
    return finish();
  }

  // The two halves of a step: between them the host is free while a device works. A device's work is recorded for the
  // address of the images and replayed: give the same buffer every time.
  void start(Rows<const Scalar, Method::in> images, const StepSettings<Method>& settings) {
    const Scalars scalars{settings.coefficients, optimizer_.coefficients(settings.learning_rate, steps_ + 1)};
    const Control control{.stop = settings.stop ? 1.0 : 0.0};
    backend_.upload(1, &scalars, scalars_.data());
    backend_.upload(1, &control, control_.data());
    if (std::exchange(recorded_images_, images.data) != images.data)
      for (auto& recording : recordings_) recording.reset();
    naming_step([&] {
      backend_.replay(recordings_[settings.frozen_gradients ? 1 : 0],
                      [&] { run_step(images, settings.frozen_gradients); });
    });
  }
  double finish() {
    naming_step([&] { communicator_.wait(backend_); });
    Control control;
    backend_.download(1, control_.data(), &control);
    if (control.blocked != 0) refuse(control.loss);
    stop_wished_ = control.stop != 0;
    ++steps_;
    return control.loss;
  }

  // features (images x Encoder::out) of the base encoder in evaluation mode; both in memory of the backend, at most as
  // many images as a step takes.
  void encode(Rows<const Scalar, Method::in> images, Rows<Scalar, Method::Encoder::out> features) {
    auto context = this->context(Mode::evaluate);
    Method::Encoder::encode(context, student_.bind().base_encoder.encoder, images, features);
  }

  // Attention weights of a block of the base encoder (images*heads*tokens x tokens), in evaluation mode. Takes at most
  // as many images as a step.
  void attention(Rows<const Scalar, Method::in> images, int block, Rows<Scalar, Method::Encoder::tokens> weights) {
    auto context = this->context(Mode::evaluate);
    Method::Encoder::encode_attention(context, student_.bind().base_encoder.encoder, images, block, weights);
  }

  // The norm of the gradient of the last step over the tensors whose name starts with `prefix`. On all ranks.
  [[nodiscard]] double gradient_norm(std::string_view prefix) {
    naming_step([&] { exchange_.gather(Student::parameters, gradient_.data()); });
    squared_norms(backend_, std::span<const Entry>(Student::entries), static_cast<const Master*>(gradient_.data()),
                  squares_.data());
    std::array<double, Student::entries.size()> squares;
    backend_.download(squares_.size(), squares_.data(), squares.data());
    double sum = 0;
    for (std::size_t i = 0; i < squares.size(); ++i)
      if (Student::entries[i].name.view().starts_with(prefix)) sum += squares[i];
    return std::sqrt(sum);
  }

  // Calls use(tensors) with every tensor that a resumed run needs: both networks under their public names, and the
  // optimizer's buffers as optimizer.<number>.<name>. Ranks that have parts of the optimizer's state bring them
  // together for the call. On all ranks.
  template <class Use>
  void with_tensors(Use&& use) {
    if constexpr (Exchange::split) {
      const States whole = make_states(Student::parameters);
      for_state_parts([&](std::size_t i, const Part& part, index size) {
        backend_.copy(size, optimizer_state_[i].data() + part.state, whole[i].data() + part.first);
      });
      for (auto& state : whole) exchange_.gather(Student::parameters, state.data());
      backend_.wait();
      use(tensors(whole));
    } else {
      use(tensors(optimizer_state_));
    }
  }

  // Calls read(tensors), which on rank 0 assigns what with_tensors shows and returns the number of steps that led
  // there. All ranks continue from that. On all ranks.
  template <class Read>
  void resume(Read&& read) {
    if constexpr (Exchange::split) {
      const States whole = make_states(Student::parameters);
      continue_from(tensors(whole), read);
      for_state_parts([&](std::size_t i, const Part& part, index size) {
        backend_.copy(size, whole[i].data() + part.first, optimizer_state_[i].data() + part.state);
      });
      backend_.wait();
    } else {
      continue_from(tensors(optimizer_state_), read);
    }
  }

  // Whether `good` holds on all ranks, on all of which this is called.
  [[nodiscard]] bool all_agree(bool good) { return sum(good ? 0 : 1) == 0; }

  // The flat buffers, for tests and tools.
  [[nodiscard]] typename Method::template State<Scalar> state() {
    return {student_.parameters(), gradient_.data(), teacher_.parameters(), student_.statistics(),
            teacher_.statistics()};
  }

 private:
  // What a step reads from memory of the backend.
  struct Scalars {
    typename Method::Coefficients method;
    optim::StepCoefficients optimizer;
  };

  // What a step tells; summed over the ranks by one call.
  struct Control {
    double loss = 0, blocked = 0, stop = 0;
  };
  static constexpr index control_values = sizeof(Control) / sizeof(double);

  using Exchange = Sharing<Backend, Communicator>;
  using States = std::array<Buffer<Master>, Optimizer::states>;

  [[nodiscard]] auto context(Mode mode) {
    return Context<Backend, Communicator, Exchange>{
        backend_, communicator_, mode, mode == Mode::train ? Method::views : 1, false, &exchange_};
  }

  // What is said of a lost rank names the step.
  template <class Body>
  void naming_step(Body&& body) {
    try {
      body();
    } catch (const comm::RankLost& error) {
      throw comm::RankLost(fmt::format("step {}: {}", steps_ + 1, error.what()));
    }
  }

  [[nodiscard]] std::vector<NamedTensor<Master>> tensors(const States& states) {
    std::vector<NamedTensor<Master>> all;
    detail::append_tensors<Master>(Student::entries, "", true, student_.parameters(), student_.statistics(), all);
    detail::append_tensors<Master>(Teacher::entries, "", true, teacher_.parameters(), teacher_.statistics(), all);
    for (std::size_t i = 0; i < states.size(); ++i)
      detail::append_tensors<Master>(Student::entries, "optimizer." + std::to_string(i) + ".", false, states[i].data(),
                                     nullptr, all);
    return all;
  }
  template <class Read>
  void continue_from(const std::vector<NamedTensor<Master>>& tensors, Read&& read) {
    const long steps = read(tensors);
    for (const auto& tensor : tensors) communicator_.broadcast(backend_, tensor.data, tensor.shape.size());
    steps_ = static_cast<long>(sum(communicator_.rank() == 0 ? static_cast<double>(steps) : 0));
    refresh();
  }
  // Over the ranks.
  [[nodiscard]] double sum(double value) {
    double* const place = &control_.data()->loss;
    backend_.upload(1, &value, place);
    communicator_.all_reduce(backend_, place, 1);
    communicator_.wait(backend_);
    backend_.download(1, place, &value);
    return value;
  }
  template <class Body>
  void for_state_parts(Body&& body) const {
    for (std::size_t i = 0; i < optimizer_state_.size(); ++i)
      for (const Part& part : exchange_.parts()) body(i, part, part.last - part.first);
  }

  void start_networks(std::uint64_t seed) {
    std::vector<Master> parameters(static_cast<std::size_t>(Student::parameters));
    std::vector<Master> statistics(static_cast<std::size_t>(Student::statistics));
    initialize(std::span<const Entry>(Student::entries), seed, parameters.data(), statistics.data());
    const auto upload = [&](const auto& network, index count, index statistics_count) {
      backend_.upload(count, parameters.data(), static_cast<Master*>(network.parameters()));
      backend_.upload(statistics_count, statistics.data(), network.statistics());
    };
    upload(student_, Student::parameters, Student::statistics);
    upload(teacher_, Teacher::parameters, Teacher::statistics);
  }

  void refresh() {
    student_.refresh(backend_);
    teacher_.refresh(backend_);
  }

  void run_step(Rows<const Scalar, Method::in> images, bool frozen_gradients) {
    auto context = this->context(Mode::train);
    context.frozen_gradients = frozen_gradients;
    const auto frame = context.frame();
    double* const control = &control_.data()->loss;
    exchange_.begin();
    if constexpr (Exchange::shared)
      if (!frozen_gradients) clear_frozen_gradients();
    Method::step(context, state(), images, &scalars_.data()->method, control);
    exchange_.finish();
    const Master* const gradient = gradient_.data();
    check_finite(backend_, gradient_.size(), gradient, control, control + 1);
    if (!backend_.planning()) communicator_.all_reduce(backend_, control, control_values);
    std::array<Master*, Optimizer::states> states;
    for (std::size_t i = 0; i < states.size(); ++i) states[i] = optimizer_state_[i].data();
    optimizer_.step(backend_,
                    optim::Update<Scalar>{Student::entries, groups_, exchange_.parts(), &scalars_.data()->optimizer,
                                          control + 1, gradient, student_.parameters(), states});
    exchange_.gather(Student::parameters, student_.parameters());
  }

  // They travel with the others: sums that nothing assigns anew would grow with every step.
  void clear_frozen_gradients() {
    for (const Entry& entry : Student::entries)
      if (entry.role == Role::frozen) backend_.clear(entry.size(), gradient_.data() + entry.offset);
  }

  // A step, and an evaluation of as many images, without computing.
  void run_dry(index batch) {
    run_step({nullptr, Method::views * batch}, true);
    encode({nullptr, Method::views * batch}, {nullptr, Method::views * batch});
  }

  // How much memory the activations of a step take, in bytes.
  index measure(index batch) {
    backend_.arena().reset();
    run_dry(batch);
    return backend_.arena().peak_bytes();
  }

  void plan() {
    const index wanted = measure(batch_);
    exchange_.settle();
    optimizer_state_ = make_states(exchange_.state_size());
    if (const index free = backend_.free_bytes(); wanted > free) refuse_batch(wanted, free);
    backend_.arena().commit();
    backend_.choose_products([&] { run_dry(batch_); });
    exchange_.settle();
    backend_.clear(gradient_.size(), gradient_.data());  // of what trying products has left
  }

  [[noreturn]] void refuse_batch(index wanted, index free) {
    index fits = 0, too_large = batch_;
    while (too_large - fits > 1) {
      const index middle = fits + (too_large - fits) / 2;
      (measure(middle) <= free ? fits : too_large) = middle;
    }
    backend_.arena().reset();
    constexpr double gib = 1 << 30;
    fail(
        "a batch of {} needs {:.2f} GiB for activations beside {:.2f} GiB of weights and state, but {:.2f} GiB are "
        "free; {}",
        batch_, static_cast<double>(wanted) / gib, static_cast<double>(parameter_bytes()) / gib,
        static_cast<double>(free) / gib,
        fits > 1 ? fmt::format("the largest batch that fits is {}", fits) : std::string("no batch fits"));
  }

  [[noreturn]] void refuse(double loss) {
    constexpr const char* advice =
        "weights were left as they were (try a smaller --lr, a longer --warmup-epochs or "
        "--stop-grad-conv1)";
    const Entry* const entry =
        detail::first_not_finite(backend_, std::span<const Entry>(Student::entries), gradient_.data());
    const std::string what = !math::all_finite(&loss, 1) ? std::string("the loss is not a finite number")
                             : entry == nullptr          ? std::string("a gradient on another rank is not finite")
                                                : fmt::format("the gradient of '{}' is not finite", entry->name.view());
    throw NotFinite(fmt::format("step {}: {}; {}", steps_ + 1, what, advice));
  }

  Backend& backend_;
  Communicator& communicator_;
  optim::Updater<Backend> optimizer_;
  std::vector<optim::Group> groups_ = optim::groups_of(Student::entries, optim::uniform());
  index batch_;
  long steps_ = 0;
  bool stop_wished_ = false;
  detail::Network<Backend, Method> student_;
  detail::Network<Backend, typename Method::Teacher> teacher_;
  Buffer<Master> gradient_{Student::parameters};
  Buffer<Scalars> scalars_{1};
  Buffer<Control> control_{1};
  Buffer<double> squares_{static_cast<index>(Student::entries.size())};
  const Scalar* recorded_images_ = nullptr;  // what the recordings were made for
  States optimizer_state_;
  Exchange exchange_;                                      // behind what its lane uses
  std::array<typename Backend::Recording, 2> recordings_;  // without and with the gradients of frozen tensors; behind
                                                           // the exchange, whose communicator they keep from closing

  static States make_states(index count) {
    States states;
    for (auto& state : states) state = Buffer<Master>(count);
    return states;
  }
};

}  // namespace TESSERA_ABI
}  // namespace tessera
