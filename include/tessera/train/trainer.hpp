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

#include "tessera/comm/data_parallel.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/data/batch.hpp"
#include "tessera/objectives/objective.hpp"
#include "tessera/objectives/step.hpp"
#include "tessera/optim/clipping.hpp"
#include "tessera/optim/groups.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/train/device.hpp"
#include "tessera/train/networks.hpp"
#include "tessera/train/product_choices.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The numbers that a trainer is made with.
struct TrainerSettings {
  index batch = 256;       // images of a step on this rank, as many on every rank
  std::uint64_t seed = 0;  // of the initial values and of random numbers in steps
  optim::Grouping groups = optim::uniform();
  index bucket_bytes = comm::default_bucket_bytes;  // of gradients that are reduced at a time
  double clip_grad = 0;                             // largest norm of all gradients together; 0: they are not clipped
};

// The numbers that change from step to step.
template <class Objective>
struct StepSettings {
  double learning_rate = 0;
  typename Objective::Settings settings = {};
  double epoch = 0, epochs = 1;   // where the schedules of `settings` are
  bool frozen_gradients = false;  // also compute the gradients of frozen tensors, to look at them
  bool stop = false;              // this rank asks all ranks to stop after the step
};

// A loss or gradient, or what the update made of a weight or moment, is not a finite number.
class NotFinite : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return tessera::exit_code::not_finite; }
};

namespace detail {

// The first trained tensor with a value that is not finite within the parts, or null. values: of the parts alone.
template <class Backend, class Scalar>
[[nodiscard]] const Entry* first_not_finite(const Backend& backend, std::span<const Entry> entries,
                                            std::span<const Part> parts, const Scalar* values) {
  std::vector<Scalar> some;
  for (const Part& part : parts)
    for (const Entry& entry : entries) {
      if (entry.role != Role::trained) continue;
      const index first = larger(part.first, entry.offset), last = smaller(part.last, entry.offset + entry.size());
      if (first >= last) continue;
      some.resize(static_cast<std::size_t>(last - first));
      backend.download(last - first, values + (part.state + first - part.first), some.data());
      if (!math::all_finite(some.data(), last - first)) return &entry;
    }
  return nullptr;
}

}  // namespace detail

// Owns the networks of an Objective, their gradients and the optimizer's states. Several ranks, each with a share of
// the batch, train as one rank with the whole batch.
//
// All ranks call the same functions in the same order; `on all ranks` says which of them communicate.
template <class Objective_, class Device_ = cpu::Device<>>
class Trainer {
  static_assert(objectives::check_objective<Objective_>());

 public:
  using Objective = Objective_;
  using Device = Device_;
  using Backend = typename Device::Backend;
  using Communicator = typename Device::Communicator;
  using Exchange = typename Device::Exchange;
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Networks = typename Objective::Networks;
  using Online = Layout<typename Networks::Online>;
  using Encoder = typename Objective::Encoder;
  using Batch = data::Batch<Scalar, typename Objective::Reads>;
  using Images = Rows<const Scalar, Encoder::in>;
  template <class Element>
  using Buffer = typename Backend::template Buffer<Element>;

  // Networks start from the seed. rule: optim::AdamW{...} and its relatives, or one's own. Throws Error if the batch is
  // too small for the objective, OutOfMemory if the memory is too small for the batch. On all ranks.
  template <class Rule>
  Trainer(Device& device, Rule rule, const TrainerSettings& settings)
      : Trainer(device.backend, device.communicator, std::move(rule), settings) {}

  template <class Rule>
  Trainer(Backend& backend, Communicator& communicator, Rule rule, const TrainerSettings& settings)
      : backend_(backend),
        communicator_(communicator),
        updater_(std::move(rule)),
        groups_(optim::groups_of(Online::entries, settings.groups)),
        clipping_(settings.clip_grad, Online::entries, groups_),
        batch_(settings.batch),
        seed_(settings.seed),
        exchange_(backend, communicator, Online::entries, updater_.whole_tensors(), gradient_.data(),
                  Online::parameters, settings.bucket_bytes, Networks::starts) {
    if (batch_ < 1) fail("a batch of {} images is too small: a step needs at least 1 image", batch_);
    if constexpr (requires { Objective::smallest_batch; })
      if (batch_ * communicator.size() < Objective::smallest_batch)
        fail("a batch of {} image(s) is too small: {} needs at least {} images", batch_ * communicator.size(),
             Objective::name, Objective::smallest_batch);
    plan();
    networks_.start(backend_, settings.seed);
    choose_products();
  }

  [[nodiscard]] index batch() const noexcept { return batch_; }
  [[nodiscard]] long steps() const noexcept { return steps_; }
  [[nodiscard]] const Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] Backend& backend() noexcept { return backend_; }
  [[nodiscard]] Communicator& communicator() noexcept { return communicator_; }
  [[nodiscard]] std::string_view optimizer() const { return updater_.name(); }
  [[nodiscard]] index activation_bytes() const { return backend_.arena().peak_bytes(); }
  [[nodiscard]] index parameter_bytes() const {
    return networks_.bytes() +
           static_cast<index>(sizeof(Master)) * (Online::parameters + updater_.states() * exchange_.state_size());
  }
  // True if any rank asked to stop at the start of the last step.
  [[nodiscard]] bool stop_wished() const noexcept { return stop_wished_; }
  // Images that encode() takes at once: as many as the crops that the encoder sees in a step.
  [[nodiscard]] index images_at_once() const { return most_images(batch_); }

  // One step on a batch in memory of the backend, on all ranks. Returns the loss of the batch of all ranks.
  //
  // Throws NotFinite, which names the first such tensor, if the loss or a gradient of any rank is not finite; then
  // nothing has changed but moving averages, BatchNorm statistics and buffers. Throws NotFinite as well, and counts no
  // step, if the update makes a weight or moment infinite or not a number, as at a learning rate that is too large;
  // then the trainer is of no more use. All ranks throw alike. But with ZeroStage1, where ranks update parts, the ranks
  // throw that made such a value; the others learn that a rank is lost when they meet next, in a step or before they
  // save.
  double step(const Batch& batch, const StepSettings<Objective>& settings) {
    start(batch, settings);
    return finish();
  }

  // The two halves of a step: between them the host is free while a device works. A device's work is recorded for the
  // addresses of the batch and replayed: give the same buffers every time.
  void start(const Batch& batch, const StepSettings<Objective>& settings) {
    const Scalars scalars{objectives::values_at(settings.settings, settings.epoch, settings.epochs),
                          updater_.coefficients(settings.learning_rate, steps_ + 1),
                          {seed_, steps_}};
    const Control control{.stop = settings.stop ? 1.0 : 0.0};
    backend_.upload(1, &scalars, scalars_.data());
    backend_.upload(1, &control, control_.data());
    if (std::exchange(recorded_, batch.addresses()) != batch.addresses())
      for (auto& recording : recordings_) recording.reset();
    naming_step([&] {
      backend_.replay(recordings_[settings.frozen_gradients ? 1 : 0],
                      [&] { run_step(batch, settings.frozen_gradients); });
    });
  }
  double finish() {
    naming_step([&] { communicator_.wait(backend_); });
    Control control;
    backend_.download(1, control_.data(), &control);
    clipping_factor_ = control.blocked != 0 ? 1 : clipping_.factor(control.square);
    if (control.blocked != 0) refuse(control.loss);
    if (control.overflow != 0) refuse_update();
    stop_wished_ = control.stop != 0;
    ++steps_;
    return control.loss;
  }

  // features (images x Encoder::out) in evaluation mode; both in memory of the backend, at most images_at_once().
  void encode(Images images, Rows<Scalar, Encoder::out> features) {
    auto context = this->context(Mode::evaluate);
    Encoder::encode(context, Objective::encoder(networks_.bind()), images, features);
  }

  // Attention weights of a block of the encoder (images*heads*tokens x tokens), in evaluation mode; as many images as
  // encode() takes. Only for encoders that have maps.
  template <class Mapped = Encoder>
  void attention(Images images, int block, Rows<Scalar, Mapped::tokens> weights) {
    auto context = this->context(Mode::evaluate);
    Mapped::encode_attention(context, Objective::encoder(networks_.bind()), images, block, weights);
  }

  // The norm of the gradient of the last step, before clipping, over the tensors whose name starts with `prefix`. On
  // all ranks.
  [[nodiscard]] double gradient_norm(std::string_view prefix) {
    naming_step([&] { exchange_.gather(Online::parameters, gradient_.data()); });
    squared_norms(backend_, std::span<const Entry>(Online::entries), static_cast<const Master*>(gradient_.data()),
                  squares_.data());
    std::array<double, Online::entries.size()> squares;
    backend_.download(squares_.size(), squares_.data(), squares.data());
    double sum = 0;
    for (std::size_t i = 0; i < squares.size(); ++i)
      if (Online::entries[i].name.view().starts_with(prefix)) sum += squares[i];
    return std::sqrt(sum) / clipping_factor_;
  }

  // Calls use(tensors) with every tensor that a resumed run needs: those of the networks under their public names, and
  // the optimizer's states as optimizer.<number>.<name>. Ranks that have parts of the states bring them together for
  // the call. On all ranks.
  template <class Use>
  void with_tensors(Use&& use) {
    if constexpr (Exchange::split) {
      static_cast<void>(all_agree(true));  // a rank whose part of the weights is not finite does not come
      const States whole = make_states(Online::parameters);
      for_state_parts([&](std::size_t i, const Part& part, index size) {
        backend_.copy(size, states_[i].data() + part.state, whole[i].data() + part.first);
      });
      for (auto& state : whole) exchange_.gather(Online::parameters, state.data());
      backend_.wait();
      use(tensors(whole));
    } else {
      use(tensors(states_));
    }
  }

  // Calls read(tensors), which on rank 0 assigns what with_tensors shows and returns the number of steps that led
  // there. All ranks continue from that. On all ranks.
  template <class Read>
  void resume(Read&& read) {
    if constexpr (Exchange::split) {
      const States whole = make_states(Online::parameters);
      continue_from(tensors(whole), read);
      for_state_parts([&](std::size_t i, const Part& part, index size) {
        backend_.copy(size, whole[i].data() + part.first, states_[i].data() + part.state);
      });
      backend_.wait();
    } else {
      continue_from(tensors(states_), read);
    }
  }

  // True if `good` is true on every rank. On all ranks.
  [[nodiscard]] bool all_agree(bool good) { return sum(good ? 0 : 1) == 0; }

  // The networks and the flat buffer of gradients, for tests and tools.
  [[nodiscard]] const NetworkSet<Backend, Networks>& networks() const { return networks_; }
  [[nodiscard]] Master* gradient() const { return gradient_.data(); }

 private:
  using Step = objectives::Step<Objective, Context<Backend, Communicator, Exchange>>;

  // The values that change from step to step. They lie in memory of the backend, where a recorded step reads them.
  struct Scalars {
    typename Step::Values settings;
    optim::StepCoefficients optimizer;
    objectives::StepNumber number;
  };

  // The results of a step. One call sums those in front over the ranks: loss, blocked, stop, and square, the squared
  // norm of the gradients, if they are clipped. overflow: of what this rank has updated.
  struct Control {
    double loss = 0, blocked = 0, stop = 0, square = 0, overflow = 0;
  };
  [[nodiscard]] index control_values() const { return clipping_.on() ? 4 : 3; }

  static constexpr Part whole_buffer{0, Online::parameters, 0};

  using States = std::vector<Buffer<Master>>;

  [[nodiscard]] auto context(Mode mode) {
    return Context<Backend, Communicator, Exchange>{backend_, communicator_, mode, 1, false, &exchange_};
  }

  // Runs body; a lost rank's message names the step.
  template <class Body>
  void naming_step(Body&& body) {
    try {
      body();
    } catch (const comm::RankLost& error) {
      throw comm::RankLost(fmt::format("step {}: {}", steps_ + 1, error.what()));
    }
  }

  [[nodiscard]] std::vector<NamedTensor<Master>> tensors(const States& states) {
    auto all = networks_.tensors();
    for (std::size_t i = 0; i < states.size(); ++i)
      for (const Entry& entry : Online::entries)
        if (entry.role == Role::trained)
          all.push_back({state_name(i, entry), entry.shape, states[i].data() + entry.offset});
    return all;
  }
  [[nodiscard]] static std::string state_name(std::size_t i, const Entry& entry) {
    return fmt::format("optimizer.{}.{}", i, entry.name.view());
  }
  template <class Read>
  void continue_from(const std::vector<NamedTensor<Master>>& tensors, Read&& read) {
    const long steps = read(tensors);
    for (const auto& tensor : tensors) communicator_.broadcast(backend_, tensor.data, tensor.shape.size());
    steps_ = static_cast<long>(sum(communicator_.rank() == 0 ? static_cast<double>(steps) : 0));
    networks_.refresh(backend_);
  }
  // The sum of the ranks' values.
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
    for (std::size_t i = 0; i < states_.size(); ++i)
      for (const Part& part : exchange_.parts()) body(i, part, part.last - part.first);
  }

  void run_step(const Batch& batch, bool frozen_gradients) {
    auto context = this->context(Mode::train);
    context.frozen_gradients = frozen_gradients;
    const auto frame = context.frame();
    double* const control = &control_.data()->loss;
    exchange_.begin();
    if constexpr (Exchange::shared)
      if (!frozen_gradients) clear_frozen_gradients();
    Step step(context, batch, networks_.state(gradient_.data()), scalars_.data()->settings.data(),
              &scalars_.data()->number, control);
    Objective::step(step);
    exchange_.finish();
    Master* const gradient = gradient_.data();
    double* const blocked = control + 1;
    double* const square = control + 3;
    double* const overflow = control + 4;
    check_finite(backend_, gradient_.size(), static_cast<const Master*>(gradient), control, blocked);
    if (clipping_.on()) clipping_.measure(backend_, planned(exchange_.shares()), gradient, square);
    if (!backend_.planning()) communicator_.all_reduce(backend_, control, control_values());
    if (clipping_.on()) clipping_.apply(backend_, planned(exchange_.parts()), square, blocked, gradient);
    const Parameter<Scalar> weights = networks_.online().parameters();
    updater_.step(backend_, {Online::entries, groups_, exchange_.parts(), &scalars_.data()->optimizer, blocked,
                             overflow, gradient, weights, state_pointers_});
    exchange_.gather(Online::parameters, weights);
  }

  // The first time that a step is planned, ranks have no parts yet: then memory is planned for all of the buffer.
  [[nodiscard]] std::span<const Part> planned(std::span<const Part> parts) const {
    return backend_.planning() && parts.empty() ? std::span<const Part>(&whole_buffer, 1) : parts;
  }

  // Zeroes the gradients of frozen tensors. They lie inside the all-reduced buckets, but no layer assigns them, so
  // without this each step would add the last step's sum again.
  void clear_frozen_gradients() {
    for (const Entry& entry : Online::entries)
      if (entry.role == Role::frozen) backend_.clear(entry.size(), gradient_.data() + entry.offset);
  }

  [[nodiscard]] static index most_images(index batch) { return std::get<0>(Batch::planned(batch).crops).rows; }

  // A step, and an evaluation of as many images as it encodes, without computing.
  void run_dry(index batch) {
    run_step(Batch::planned(batch), true);
    encode({nullptr, most_images(batch)}, {nullptr, most_images(batch)});
  }

  // How much memory the activations of a step take, in bytes.
  index measure(index batch) {
    backend_.arena().reset();
    run_dry(batch);
    return backend_.arena().peak_bytes();
  }

  // Takes memory. Throws OutOfMemory, before parameters are computed, if the batch does not fit.
  void plan() {
    state_pointers_.assign(static_cast<std::size_t>(updater_.states()), nullptr);
    const index wanted = measure(batch_);
    exchange_.settle();
    states_ = make_states(exchange_.state_size());
    for (std::size_t i = 0; i < states_.size(); ++i) state_pointers_[i] = states_[i].data();
    if (const index free = backend_.free_bytes(); wanted > free) refuse_batch(wanted, free);
    backend_.arena().commit();
  }

  void choose_products() {
    choose_alike(backend_, communicator_, [&] { backend_.choose_products([&] { run_dry(batch_); }); });
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
    throw OutOfMemory(
        fmt::format("a batch of {} needs {} for activations beside {} of weights and state, but {} are free; {}",
                    batch_, memory_text(wanted), memory_text(parameter_bytes()), memory_text(free),
                    fits > 1 ? fmt::format("the largest batch that fits is {}", fits) : std::string("no batch fits")));
  }

  [[noreturn]] void refuse(double loss) {
    const Entry* const entry = first_not_finite({&whole_buffer, 1}, gradient_.data());
    const std::string problem = !math::all_finite(&loss, 1) ? std::string("the loss is not a finite number")
                                : entry == nullptr
                                    ? std::string("a gradient on another rank is not finite")
                                    : fmt::format("the gradient of '{}' is not finite", entry->name.view());
    throw NotFinite(
        fmt::format("step {}: {}; weights were left as they were: try a smaller learning rate, a longer warm-up or a "
                    "frozen patch projection",
                    steps_ + 1, problem));
  }
  [[noreturn]] void refuse_update() {
    throw NotFinite(fmt::format(
        "step {}: the update made {} infinite or not a number, so that this run cannot go on; continue from the last "
        "checkpoint with a smaller learning rate, a longer warm-up or clipped gradients",
        steps_ + 1, overflown()));
  }
  // The first tensor that is not finite after an update, among the weights and this rank's parts of the moments.
  [[nodiscard]] std::string overflown() {
    const Master* const weights = networks_.online().parameters();
    if (const Entry* const entry = first_not_finite({&whole_buffer, 1}, weights))
      return fmt::format("'{}'", entry->name.view());
    for (std::size_t i = 0; i < states_.size(); ++i)
      if (const Entry* const entry = first_not_finite(exchange_.parts(), states_[i].data()))
        return fmt::format("'{}'", state_name(i, *entry));
    return "a value between two tensors, whose gradient is 0,";
  }
  [[nodiscard]] const Entry* first_not_finite(std::span<const Part> parts, const Master* values) const {
    return detail::first_not_finite(backend_, std::span<const Entry>(Online::entries), parts, values);
  }

  [[nodiscard]] States make_states(index count) const {
    States states;
    for (int i = 0; i < updater_.states(); ++i) states.emplace_back(count);
    return states;
  }

  Backend& backend_;
  Communicator& communicator_;
  optim::Updater<Backend> updater_;
  std::vector<optim::Group> groups_;  // one for each entry of Online
  optim::Clipping clipping_;
  double clipping_factor_ = 1;  // of the last step
  index batch_;
  std::uint64_t seed_;
  long steps_ = 0;
  bool stop_wished_ = false;
  NetworkSet<Backend, Networks> networks_;
  Buffer<Master> gradient_{Online::parameters};
  Buffer<Scalars> scalars_{1};
  Buffer<Control> control_{1};
  Buffer<double> squares_{static_cast<index>(Online::entries.size())};
  decltype(std::declval<Batch>().addresses()) recorded_{};  // the addresses that the recordings were made for
  States states_;                                           // the optimizer's
  std::vector<Master*> state_pointers_;
  Exchange exchange_;                                      // behind what its lane uses
  std::array<typename Backend::Recording, 2> recordings_;  // without and with the gradients of frozen tensors; behind
                                                           // the exchange, whose communicator they keep from closing
};

}  // namespace TESSERA_ABI
}  // namespace tessera
