// Data parallelism of a training step: gradients are all-reduced while backward runs, and every rank updates all
// weights (Replicated) or a part of them (ZeroStage1, whose optimizer states are split).
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

inline constexpr index default_bucket_bytes = index{25} << 20;

namespace detail {

// The boundary between tensors that lies nearest to `target`, within [first, last].
[[nodiscard]] inline index nearest_boundary(std::span<const Entry> entries, index target, index first, index last) {
  index nearest = last;
  const auto distance = [target](index at) { return at < target ? target - at : at - target; };
  for (const Entry& entry : entries)
    if (entry.role != Role::statistic && entry.offset >= first && entry.offset < last &&
        distance(entry.offset) < distance(nearest))
      nearest = entry.offset;
  return nearest;
}

}  // namespace detail

// One rank: it updates everything by itself.
template <class Backend>
class Alone : public NoExchange {
 public:
  static constexpr bool split = false;
  using Value = Accumulator<typename Backend::Scalar>;

  Alone(Backend&, Serial&, std::span<const Entry>, bool, Value*, index size, index, std::span<const index> = {})
      : part_{0, size, 0} {}

  static void begin() noexcept {}
  static void finish() noexcept {}
  static void settle() noexcept {}
  [[nodiscard]] std::span<const Part> parts() const { return {&part_, 1}; }
  [[nodiscard]] std::span<const Part> shares() const { return parts(); }
  [[nodiscard]] index state_size() const { return part_.last; }
  template <class Values>
  static void gather(index, Values) noexcept {}

 private:
  Part part_;
};

// Several ranks. Backward makes the gradients of a network final from the end of its part of the flat buffer to its
// start; networks may run in any order. Gradients are reduced in buckets of at least `bucket_bytes`, from the end of
// the buffer, as soon as all gradients behind a bucket's start are final. The reductions run on a lane beside the
// backend, with a communicator of their own. The dry run that plans memory records the bounds of the buckets; every
// rank runs the same step, so all ranks get the same bounds.
template <class Backend, class Communicator, bool split_>
class Exchange {
 public:
  static constexpr bool shared = true, split = split_;
  using Scalar = typename Backend::Scalar;
  using Value = Accumulator<Scalar>;

  // gradient: the flat buffer, `size` elements with the tensors of `entries`. whole_tensors: a rank's part must not end
  // within a tensor. starts: the first elements of the networks in the buffer; one network fills it if there are none.
  // All ranks construct theirs together.
  Exchange(Backend& backend, Communicator& communicator, std::span<const Entry> entries, bool whole_tensors,
           Value* gradient, index size, index bucket_bytes, std::span<const index> starts = {})
      : backend_(backend),
        beside_(communicator.duplicate()),
        ranks_(communicator.size()),
        rank_(communicator.rank()),
        entries_(entries),
        whole_tensors_(whole_tensors),
        gradient_(gradient),
        size_(size),
        bucket_size_(larger(index{1}, bucket_bytes / static_cast<index>(sizeof(Value)))),
        lane_(backend) {
    for (const index first : starts) networks_.push_back({first, size, size});
    if (starts.empty()) networks_.push_back({0, size, size});
    for (std::size_t i = 1; i < networks_.size(); ++i) networks_[i - 1].last = networks_[i].first;
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  // Aborts a step that an exception ended, so that the other ranks do not wait for it.
  ~Exchange() {
    if (running_) beside_.abort();
  }

  // Begins a step. While it is planned, the bounds of the buckets are recorded.
  void begin() {
    running_ = !backend_.planning();
    started_ = 0;
    for (Network& network : networks_) network.final = network.last;
    if (backend_.planning()) buckets_.clear();
  }

  // Tells that the gradients from this one to the end of its network are final.
  void final_from(const Value* from) {
    const index at = from - gradient_;
    for (Network& network : networks_)
      if (at >= network.first && at < network.last) network.final = smaller(network.final, at);
    start_from(all_final());
  }

  // Tells that all gradients are final. Work that the backend starts after this call finds their sums.
  void finish() {
    if (backend_.planning() && last() > 0) buckets_.push_back({0, last(), {}});
    start_from(0);
    join();
    running_ = false;
  }

  // Divides the buckets among the ranks.
  void settle() {
    shares_.clear();
    displacements_below_.clear();
    for (Bucket& bucket : buckets_) cut(bucket);
    index state = 0;
    for (auto bucket = buckets_.rbegin(); bucket != buckets_.rend(); ++bucket) {
      const index first = bucket->first + bucket->displacements[place()],
                  last = bucket->first + bucket->displacements[place() + 1];
      if (first < last) shares_.push_back({first, last, state});
      state += last - first;
    }
    if constexpr (split)
      parts_ = shares_;
    else
      parts_.assign(1, {0, size_, 0});
  }

  // The ranges of the buffer that this rank updates, in ascending order.
  [[nodiscard]] std::span<const Part> parts() const { return parts_; }
  // The ranges whose squares this rank sums for the norm of the gradients: its parts if optimizer states are split, and
  // the same ranges if they are not.
  [[nodiscard]] std::span<const Part> shares() const { return shares_; }
  // Elements of each optimizer state on this rank.
  [[nodiscard]] index state_size() const {
    return parts_.empty() ? 0 : parts_.back().state + parts_.back().last - parts_.back().first;
  }

  // Calls body(first, size) for the ranges of the first `count` elements that this rank owns.
  template <class Body>
  void for_parts(index count, Body&& body) const {
    for (const Part& part : parts_)
      if (const index last = smaller(part.last, count); part.first < last) body(part.first, last - part.first);
    if (backend_.planning() && parts_.empty()) body(index{0}, count);
  }
  // All-gathers the ranks' parts of the first `count` elements.
  template <class Values>
  void gather(index count, Values values) {
    if constexpr (split) {
      start_gathering(count, values);
      join();
    }
  }

  // Runs body(lane, communicator) on a lane, while the backend goes on. join() makes the backend wait for it.
  template <class Body>
  void beside(Body body) {
    if (!backend_.planning()) lane_.start([this, body](auto& lane) { body(lane, beside_); });
  }
  void join() {
    if (!backend_.planning()) lane_.join();
  }

  // The displacements of the ranks' parts of a buffer in which each rank has `size` elements.
  [[nodiscard]] Displacements equal_parts(index size) {
    auto& displacements = equal_parts_[size];
    if (displacements.empty())
      for (int rank = 0; rank <= ranks_; ++rank) displacements.push_back(size * rank);
    return displacements;
  }

 private:
  struct Bucket {
    index first, last;
    std::vector<index> displacements;  // from its first element on
  };
  struct Network {
    index first, last;
    index final;  // from here on, in this step
  };

  // The first element of the buckets so far.
  [[nodiscard]] index last() const { return buckets_.empty() ? size_ : buckets_.back().first; }
  [[nodiscard]] std::size_t place() const { return static_cast<std::size_t>(rank_); }

  // The first element from which on all gradients are final.
  [[nodiscard]] index all_final() const {
    for (auto network = networks_.rbegin(); network != networks_.rend(); ++network)
      if (network->final > network->first) return network->final;
    return 0;
  }

  // Starts the reduction of the buckets behind `from`.
  void start_from(index from) {
    if (backend_.planning()) {
      if (last() - from >= bucket_size_) buckets_.push_back({from, last(), {}});
      return;
    }
    for (; started_ < buckets_.size() && from <= buckets_[started_].first; ++started_)
      beside([this, i = started_](auto& lane, Communicator& communicator) {
        const Bucket& bucket = buckets_[i];
        if constexpr (split)
          communicator.reduce_scatter(lane, gradient_ + bucket.first, Displacements(bucket.displacements));
        else
          communicator.all_reduce(lane, gradient_ + bucket.first, bucket.last - bucket.first);
      });
  }

  template <class Element>
  void start_gathering(index count, Element* values) {
    if (backend_.planning()) return;
    for (const Bucket& bucket : buckets_)
      if (bucket.first < count)
        beside([values = values + bucket.first, displacements = displacements_below(count, bucket)](
                   auto& lane, Communicator& communicator) { communicator.all_gather(lane, values, displacements); });
  }
  template <class Low>
  void start_gathering(index count, MasterAndCopy<Low> values) {
    start_gathering(count, values.master);
    start_gathering(count, values.copy);
  }

  // The displacements within a bucket, cut at the first `count` elements of the buffer.
  [[nodiscard]] Displacements displacements_below(index count, const Bucket& bucket) {
    if (bucket.last <= count) return bucket.displacements;
    auto& displacements = displacements_below_[count];
    if (displacements.empty())
      for (const index cut : bucket.displacements) displacements.push_back(smaller(cut, count - bucket.first));
    return displacements;
  }

  void cut(Bucket& bucket) const {
    bucket.displacements.assign(static_cast<std::size_t>(ranks_) + 1, 0);
    const index size = bucket.last - bucket.first;
    for (int r = 1; r <= ranks_; ++r) {
      index& at = bucket.displacements[static_cast<std::size_t>(r)];
      at = even_displacement(size, ranks_, r, entry_alignment);
      if (whole_tensors_ && r < ranks_)
        at = detail::nearest_boundary(entries_, bucket.first + at, bucket.first, bucket.last) - bucket.first;
    }
  }

  Backend& backend_;
  Communicator beside_;
  int ranks_, rank_;
  std::span<const Entry> entries_;
  bool whole_tensors_;
  Value* gradient_;
  index size_, bucket_size_;
  std::vector<Network> networks_;  // from the start of the buffer to its end
  std::vector<Bucket> buckets_;    // from the end of the buffer to its start
  std::size_t started_ = 0;
  bool running_ = false;
  std::vector<Part> shares_, parts_;
  std::map<index, std::vector<index>> equal_parts_, displacements_below_;  // kept: the lane reads them
  typename Backend::Lane lane_;                                            // the last member: its jobs use the others
};

// Every rank updates all weights.
template <class Backend, class Communicator>
using Replicated =
    std::conditional_t<std::is_same_v<Communicator, Serial>, Alone<Backend>, Exchange<Backend, Communicator, false>>;

// A rank updates a part of every bucket, has the optimizer states of that part alone, and moves that part of the
// momentum encoder; the results are the same to the bit.
template <class Backend, class Communicator>
using ZeroStage1 =
    std::conditional_t<std::is_same_v<Communicator, Serial>, Alone<Backend>, Exchange<Backend, Communicator, true>>;

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
