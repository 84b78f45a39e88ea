// Trainers in tests: memory of any backend, batches from it, and what a trainer holds.
#pragma once

#include <tuple>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/data/batch.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::test {

// `count` values of the host in memory of the backend, as Element.
template <class Element, class Backend>
class Held {
 public:
  Held(const Backend& backend, const std::vector<double>& values) : Held(backend, static_cast<index>(values.size())) {
    assign(values);
  }
  Held(const Backend& backend, index count) : backend_(backend), buffer_(count) {}

  void assign(const std::vector<double>& values) {
    std::vector<Element> converted;
    for (const double value : values)
      converted.push_back(static_cast<Element>(static_cast<Accumulator<Element>>(value)));
    backend_.upload(buffer_.size(), converted.data(), buffer_.data());
    backend_.wait();
  }

  [[nodiscard]] Element* data() const { return buffer_.data(); }
  [[nodiscard]] std::vector<Accumulator<Element>> values() const {
    std::vector<Element> stored(static_cast<std::size_t>(buffer_.size()));
    backend_.download(buffer_.size(), buffer_.data(), stored.data());
    std::vector<Accumulator<Element>> values;
    for (const Element& value : stored) values.push_back(static_cast<Accumulator<Element>>(value));
    return values;
  }

 private:
  const Backend& backend_;
  typename Backend::template Buffer<Element> buffer_;
};

template <class Backend, class Element>
[[nodiscard]] std::vector<Element> downloaded(const Backend& backend, const Element* from, index count) {
  std::vector<Element> values(static_cast<std::size_t>(count));
  backend.download(count, from, values.data());
  return values;
}

template <class Objective, class Backend, class Communicator = comm::Serial,
          template <class, class> class Sharing = comm::Replicated>
using TrainerOn = Trainer<Objective, Device<Backend, Communicator, Sharing>>;

template <class Objective>
using OnlineLayout = Layout<typename Objective::Networks::Online>;
template <class Objective, std::size_t which = 0>
using AverageModel = typename std::tuple_element_t<which, typename Objective::Networks::AverageSets>::Model;
template <class Objective, std::size_t which = 0>
using AverageLayout = Layout<AverageModel<Objective, which>>;

// A batch of `images` images whose only group of crops is at `crops`.
template <class Objective, class Scalar>
[[nodiscard]] auto batch_of(const Scalar* crops, index images) {
  auto batch = data::Batch<Scalar, typename Objective::Reads>::planned(images);
  std::get<0>(batch.crops).data = crops;
  return batch;
}

// The trained tensors of a trainer, as they lie in their flat buffer.
template <class Trainer>
[[nodiscard]] auto weights_of(const Trainer& trainer) {
  return downloaded(trainer.backend(),
                    static_cast<const typename Trainer::Master*>(trainer.networks().online().parameters()),
                    Trainer::Online::parameters);
}

// The tensors of a trainer's frozen network, as they lie in their flat buffer.
template <std::size_t which = 0, class Trainer>
[[nodiscard]] auto frozen_of(const Trainer& trainer) {
  using Model = typename std::tuple_element_t<which, typename Trainer::Networks::FrozenSets>::Model;
  return downloaded(
      trainer.backend(),
      static_cast<const typename Trainer::Master*>(trainer.networks().template frozen<which>().parameters()),
      Layout<Model>::parameters);
}

}  // namespace tessera::test
