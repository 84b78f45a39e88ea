// A communicator that makes sure, before every call, that all ranks are about to do the same.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace testing {

// Costs one all_gather of 40 bytes from each rank a call. What ranks say about their calls lies on the host: where
// values are on a device, this decorates the communicator beneath, Staged<Checked<Mpi>>.
template <class Communicator>
class Checked {
 public:
  explicit Checked(Communicator inner)
      : inner_(std::move(inner)), said_(static_cast<std::size_t>(inner_.size()) * words) {
    for (int r = 0; r <= inner_.size(); ++r) places_.push_back(r * words);
  }

  [[nodiscard]] int rank() const noexcept { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept { return inner_.size(); }
  [[nodiscard]] Communicator& inner() noexcept { return inner_; }

  template <comm::HostQueue Queue, class Value>
  void all_reduce(Queue& queue, Value* values, index count) {
    agree<Value>(comm::Operation::all_reduce, count);
    inner_.all_reduce(queue, values, count);
  }
  template <comm::HostQueue Queue, class Value>
  void reduce_scatter(Queue& queue, Value* values, comm::Displacements displacements) {
    agree<Value>(comm::Operation::reduce_scatter, displacements.back(), displacements);
    inner_.reduce_scatter(queue, values, displacements);
  }
  template <comm::HostQueue Queue, class Value>
  void all_gather(Queue& queue, Value* values, comm::Displacements displacements) {
    agree<Value>(comm::Operation::all_gather, displacements.back(), displacements);
    inner_.all_gather(queue, values, displacements);
  }
  template <comm::HostQueue Queue, class Value>
  void broadcast(Queue& queue, Value* values, index count) {
    agree<Value>(comm::Operation::broadcast, count);
    inner_.broadcast(queue, values, count);
  }

  template <class Queue>
  void wait(Queue& queue) {
    inner_.wait(queue);
  }
  [[nodiscard]] Checked duplicate() { return Checked(inner_.duplicate()); }
  void set_deadline(std::chrono::milliseconds deadline) { inner_.set_deadline(deadline); }
  void abort() noexcept { inner_.abort(); }

 private:
  static constexpr index words = 5;  // operation, type, count, number, displacements

  template <class Value>
  void agree(comm::Operation operation, index count, comm::Displacements displacements = {}) {
    const comm::Call mine{operation, comm::type_of<Value>(), count, ++calls_};
    std::int64_t* const said = said_.data() + rank() * words;
    said[0] = static_cast<std::int64_t>(mine.operation);
    said[1] = static_cast<std::int64_t>(mine.type);
    said[2] = mine.count;
    said[3] = mine.number;
    said[4] = mixed(displacements);
    comm::Host host;
    inner_.all_gather(host, said_.data(), comm::Displacements(places_));
    for (int r = 1; r < size(); ++r)
      if (call_of(r) != call_of(0) || cuts_of(r) != cuts_of(0)) {
        inner_.abort();
        comm::fail_lost("ranks do not do the same: {}", differences());
      }
  }

  [[nodiscard]] comm::Call call_of(int r) const {
    const std::int64_t* const said = said_.data() + r * words;
    return {static_cast<comm::Operation>(said[0]), static_cast<comm::Type>(said[1]), said[2], said[3]};
  }
  [[nodiscard]] std::int64_t cuts_of(int r) const { return said_[static_cast<std::size_t>(r * words + 4)]; }

  // Rank 0's call, and those of the ranks that call something else.
  [[nodiscard]] std::string differences() const {
    std::string text = fmt::format("rank 0 calls {}", call_of(0).text());
    for (int r = 1; r < size(); ++r)
      if (call_of(r) != call_of(0))
        text += fmt::format(", rank {} calls {}", r, call_of(r).text());
      else if (cuts_of(r) != cuts_of(0))
        text += fmt::format(", rank {} calls the same with other displacements", r);
    return text;
  }

  // FNV-1a, by words.
  [[nodiscard]] static std::int64_t mixed(comm::Displacements displacements) {
    std::uint64_t all = 14695981039346656037u;
    for (const index cut : displacements) all = (all ^ static_cast<std::uint64_t>(cut)) * 1099511628211u;
    return static_cast<std::int64_t>(all);
  }

  Communicator inner_;
  std::vector<std::int64_t> said_;
  std::vector<index> places_;
  std::int64_t calls_ = 0;
};

}  // namespace testing
}  // namespace TESSERA_ABI
}  // namespace tessera
