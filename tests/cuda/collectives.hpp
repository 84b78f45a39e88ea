// For tests of communicators of devices: every operation against its definition, at once, recorded, and beside other
// work. On the emulated device several ranks are tested, on a real one there is one.
#pragma once

#include <gmock/gmock.h>

#include <array>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda/operation.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cuda/lane.hpp"

namespace tessera::test {

using RankBackend = cuda::Backend<float>;
using RankLane = cuda::Lane<RankBackend>;

// The numbers of ranks to test with.
inline std::vector<int> numbers_of_ranks() {
#if defined(TESSERA_EMULATION)
  return {1, 2, 3, 4};
#else
  return {1};
#endif
}

// Calls body() for every order in which the emulated device may do the work of streams.
template <class Body>
void in_all_orders(Body&& body) {
#if defined(TESSERA_EMULATION)
  using emulation::Order;
  for (const Order order : {Order::submitted, Order::others_last, Order::others_first}) {
    SCOPED_TRACE(fmt::format("order {}", static_cast<int>(order)));
    emulation::machine.order = order;
    body();
  }
  emulation::machine.order = Order::submitted;
#else
  body();
#endif
}

// A backend whose plan is made.
inline void make_plan(RankBackend& backend) {
  static_cast<void>(backend.arena().take<float>(1));
  backend.arena().commit();
}

// Values of one rank on its device, between guards.
template <class Value>
class RankValues {
 public:
  explicit RankValues(const std::vector<Value>& values) : size_(values.size()), buffer_(count()) { assign(values); }

  [[nodiscard]] Value* data() const { return buffer_.data() + guard; }
  void assign(const std::vector<Value>& values) const {
    std::vector<Value> all(size_ + 2 * guard, sentinel());
    std::copy(values.begin(), values.end(), all.begin() + guard);
    cuda::check(cudaMemcpy(buffer_.data(), all.data(), all.size() * sizeof(Value), cudaMemcpyHostToDevice),
                "cudaMemcpy");
    cuda::check(cudaDeviceSynchronize(), "cudaMemcpy");
  }
  // Call it when the work on them is done.
  [[nodiscard]] std::vector<Value> values() const {
    std::vector<Value> all(size_ + 2 * guard);
    cuda::check(cudaMemcpy(all.data(), buffer_.data(), all.size() * sizeof(Value), cudaMemcpyDeviceToHost),
                "cudaMemcpy");
    const Value expected = sentinel();
    for (std::size_t i = 0; i < guard; ++i)
      EXPECT_TRUE(std::memcmp(&all[i], &expected, sizeof(Value)) == 0 &&
                  std::memcmp(&all[guard + size_ + i], &expected, sizeof(Value)) == 0)
          << "something was written outside the buffer";
    return {all.begin() + guard, all.end() - guard};
  }

 private:
  static constexpr std::ptrdiff_t guard = 16;
  static Value sentinel() { return static_cast<Value>(77.0f); }
  [[nodiscard]] index count() const { return static_cast<index>(size_) + 2 * guard; }

  std::size_t size_;
  cuda::Buffer<Value> buffer_;
};

// Small whole numbers, whose sums over 4 ranks every type holds exactly; `round` changes them.
template <class Value>
std::vector<Value> values_of_rank(int rank, index count, int round = 0) {
  std::vector<Value> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<Value>(static_cast<float>((rank + 1) * (1 + (static_cast<int>(i % 7) + round) % 7)));
  return values;
}
template <class Value>
std::vector<Value> sums_of_ranks(int ranks, index count, int round = 0) {
  std::vector<float> sums(static_cast<std::size_t>(count));
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<float> values = values_of_rank<float>(rank, count, round);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
  }
  std::vector<Value> result;
  for (const float sum : sums) result.push_back(static_cast<Value>(sum));
  return result;
}

// Ways to cut a buffer for ranks: evenly, unevenly, all to one, and nothing at all.
inline std::vector<std::vector<index>> ways_to_cut(int ranks) {
  std::vector<std::vector<index>> ways(4, {0});
  for (int r = 1; r <= ranks; ++r) {
    ways[0].push_back(60 * r);
    ways[1].push_back(comm::even_displacement(1001, ranks, r, 64));
    ways[2].push_back(r < ranks ? 0 : 37);
    ways[3].push_back(0);
  }
  return ways;
}

template <class Value>
void expect_values(const char* what, const RankValues<Value>& got, const std::vector<Value>& expected) {
  const std::vector<Value> values = got.values();
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (std::memcmp(&values[i], &expected[i], sizeof(Value)) != 0) {
      ADD_FAILURE() << what << ": element " << i << " of " << expected.size() << " is "
                    << static_cast<double>(static_cast<float>(values[i])) << ", expected "
                    << static_cast<double>(static_cast<float>(expected[i]));
      return;
    }
}

// Every operation on values of one type, cut in one way, as the ranks of a communicator see it.
template <class Value, class Communicator>
void check_operations(Communicator& communicator, RankBackend& backend, const std::vector<index>& displacements) {
  const int rank = communicator.rank(), ranks = communicator.size();
  const index count = displacements.back(), first = displacements[static_cast<std::size_t>(rank)],
              last = displacements[static_cast<std::size_t>(rank) + 1];
  SCOPED_TRACE(fmt::format("rank {} of {}, {} {}, its part [{}, {})", rank, ranks, count,
                           comm::name(comm::type_of<Value>()), first, last));
  const std::vector<Value> mine = values_of_rank<Value>(rank, count), sums = sums_of_ranks<Value>(ranks, count);
  const RankValues<Value> reduced(mine), scattered(mine), gathered(mine), sent(mine);
  communicator.all_reduce(backend, reduced.data(), count);
  communicator.reduce_scatter(backend, scattered.data(), comm::Displacements(displacements));
  communicator.all_gather(backend, gathered.data(), comm::Displacements(displacements));
  communicator.broadcast(backend, sent.data(), count);
  communicator.wait(backend);

  std::vector<Value> own_sums = mine, all_parts;
  std::copy(sums.begin() + first, sums.begin() + last, own_sums.begin() + first);
  for (int r = 0; r < ranks; ++r) {
    const std::vector<Value> values = values_of_rank<Value>(r, count);
    const auto at = static_cast<std::size_t>(r);
    all_parts.insert(all_parts.end(), values.begin() + displacements[at], values.begin() + displacements[at + 1]);
  }
  expect_values("all_reduce", reduced, sums);
  expect_values("reduce_scatter", scattered, own_sums);
  expect_values("all_gather", gathered, all_parts);
  expect_values("broadcast", sent, values_of_rank<Value>(0, count));
}

template <class Communicator>
void check_all_operations(Communicator& communicator) {
  RankBackend backend;
  for (const std::vector<index>& displacements : ways_to_cut(communicator.size())) {
    check_operations<float>(communicator, backend, displacements);
    check_operations<double>(communicator, backend, displacements);
    check_operations<bf16>(communicator, backend, displacements);
    check_operations<std::int8_t>(communicator, backend, displacements);
    check_operations<std::int32_t>(communicator, backend, displacements);
    check_operations<std::int64_t>(communicator, backend, displacements);
  }
}

// A recording of calls on the backend and, by a duplicate, on a lane beside it, replayed with other values each time:
// b = sum(a) on the lane, c = the sums of b's parts gathered on the backend.
template <class Communicator>
void check_recording(Communicator& communicator) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const index count = 501;
  std::vector<index> displacements;
  for (int r = 0; r <= ranks; ++r) displacements.push_back(comm::even_displacement(count, ranks, r, 64));
  RankBackend backend;
  make_plan(backend);
  Communicator beside = communicator.duplicate();
  RankLane lane(backend);
  const RankValues<float> a(values_of_rank<float>(rank, count)), b(std::vector<float>(501)), c(std::vector<float>(501));
  cuda::Recording recording;
  for (int round = 0; round < 3; ++round) {
    a.assign(values_of_rank<float>(rank, count, round));
    backend.replay(recording, [&] {
      backend.copy(count, static_cast<const float*>(a.data()), b.data());
      lane.start([&](auto& queue) { beside.all_reduce(queue, b.data(), count); });
      backend.copy(count, static_cast<const float*>(a.data()), c.data());
      communicator.reduce_scatter(backend, c.data(), comm::Displacements(displacements));
      lane.join();
      backend.copy(displacements[1], static_cast<const float*>(b.data()), c.data());  // rank 0's part, from the lane
      communicator.all_gather(backend, c.data(), comm::Displacements(displacements));
      communicator.all_gather(backend, c.data(), comm::Displacements(displacements));
    });
    communicator.wait(backend);
    SCOPED_TRACE(fmt::format("rank {} of {}, round {}", rank, ranks, round));
    expect_values("on the lane", b, sums_of_ranks<float>(ranks, count, round));
    expect_values("on the backend", c, sums_of_ranks<float>(ranks, count, round));
  }
}

// Calls throw RankLost whose message has all these parts.
template <class... Parts>
auto loses_with(Parts... parts) {
  return testing::ThrowsMessage<comm::RankLost>(testing::AllOf(testing::HasSubstr(parts)...));
}

}  // namespace tessera::test
