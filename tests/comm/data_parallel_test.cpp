// Gradients of several networks in one flat buffer, whose backward passes run in any order.
#include "tessera/comm/data_parallel.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "tessera/comm/recorded.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {
namespace {

using Backend = cpu::Backend<double>;
using Communicator = comm::Recorded<comm::Threads>;

// Three networks of two tensors each.
constexpr index half = 64, network = 2 * half, size = 3 * network;
constexpr std::array<index, 3> starts{0, network, 2 * network};
constexpr std::array<Entry, 6> entries = [] {
  std::array<Entry, 6> all{};
  for (int i = 0; i < 6; ++i) {
    all[static_cast<std::size_t>(i)].shape = Shape(static_cast<int>(half));
    all[static_cast<std::size_t>(i)].offset = i * half;
  }
  return all;
}();

// The calls of one step by one rank: which networks run backward, in which order; each tells of its halves as it goes.
template <template <class, class> class Sharing>
class Step {
 public:
  Step(Communicator& ranks, std::span<const index> networks)
      : communicator(ranks),
        exchange_(backend_, communicator, entries, false, gradient.data(), size, half * index{sizeof(double)},
                  networks) {}

  void plan(const std::vector<int>& order) {
    exchange_.begin();
    run(order);
    exchange_.finish();
    exchange_.settle();
    static_cast<void>(backend_.arena().take<double>(1));
    backend_.arena().commit();
  }
  // Returns how many sums were under way behind each network's backward.
  std::vector<std::int64_t> step(const std::vector<int>& order) {
    std::fill(gradient.begin(), gradient.end(), std::numeric_limits<double>::quiet_NaN());
    exchange_.begin();
    started.clear();
    run(order);
    exchange_.finish();
    exchange_.gather(size, gradient.data());
    return started;
  }

  Communicator& communicator;
  std::vector<double> gradient = std::vector<double>(size);

 private:
  void run(const std::vector<int>& order) {
    const std::int64_t before = calls();
    for (const int which : order) {
      for (const index first : {which * network + half, which * network}) {
        if (!backend_.planning())
          std::fill_n(gradient.begin() + first, half, static_cast<double>((communicator.rank() + 1) * (first + 1)));
        exchange_.final_from(gradient.data() + first);
        exchange_.join();  // what was claimed too early would be summed now
      }
      started.push_back(calls() - before);
    }
  }
  [[nodiscard]] std::int64_t calls() const {
    return communicator.record().total(comm::Operation::all_reduce).calls +
           communicator.record().total(comm::Operation::reduce_scatter).calls;
  }

  std::vector<std::int64_t> started;
  Backend backend_{1};
  Sharing<Backend, Communicator> exchange_;
};

void expect_sums(const std::vector<double>& gradient, int ranks) {
  const int factor = ranks * (ranks + 1) / 2;
  for (index i = 0; i < size; ++i)
    ASSERT_EQ(gradient[static_cast<std::size_t>(i)], static_cast<double>(factor * (i / half * half + 1))) << i;
}

template <template <class, class> class Sharing>
void check_order(const std::vector<int>& order, const std::vector<std::int64_t>& expected) {
  comm::run_threads(2, [&](comm::Threads& threads) {
    Communicator communicator(threads);
    Step<Sharing> step(communicator, starts);
    step.plan(order);
    for (int repeated = 0; repeated < 2; ++repeated) {
      EXPECT_EQ(step.step(order), expected) << "rank " << communicator.rank();
      expect_sums(step.gradient, 2);
    }
  });
}

// Buckets of the size of a tensor: six of them where backward runs from the end of the buffer to its start.
TEST(DataParallel, NetworksMayRunBackwardInAnyOrder) {
  const auto check = []<template <class, class> class Sharing>() {
    check_order<Sharing>({2, 1, 0}, {2, 4, 6});
    check_order<Sharing>({0, 1, 2}, {0, 0, 2});  // half of the last one, and all that lies in front
    check_order<Sharing>({1, 2, 0}, {0, 2, 4});
    check_order<Sharing>({0, 2, 1}, {0, 2, 4});
    check_order<Sharing>({2, 0, 1}, {2, 2, 4});
  };
  check.template operator()<comm::Replicated>();
  check.template operator()<comm::ZeroStage1>();
}

// Without a list of networks, the buffer is one: every call tells of all that lies behind.
TEST(DataParallel, OneNetworkFillsTheBuffer) {
  comm::run_threads(2, [&](comm::Threads& threads) {
    Communicator communicator(threads);
    Step<comm::Replicated> step(communicator, {});
    step.plan({2, 1, 0});
    EXPECT_THAT(step.step({2, 1, 0}), testing::ElementsAre(2, 4, 6));
    expect_sums(step.gradient, 2);
  });
}

// A network that tells nothing is final at the end of the step, and what lies in front of it waits.
TEST(DataParallel, ASilentNetworkTravelsAtTheEnd) {
  comm::run_threads(2, [&](comm::Threads& threads) {
    Backend backend(1);
    Communicator communicator(threads);
    std::vector<double> gradient(size);
    comm::Replicated<Backend, Communicator> exchange(backend, communicator, entries, false, gradient.data(), size, 8,
                                                     starts);
    const auto run = [&] {
      exchange.begin();
      exchange.final_from(gradient.data());
      exchange.final_from(gradient.data() + 2 * network);
      exchange.join();
      const auto early = communicator.record().total(comm::Operation::all_reduce).calls;
      if (!backend.planning()) std::fill_n(gradient.begin() + network, network, 1.0);
      exchange.finish();
      return early;
    };
    run();
    exchange.settle();
    static_cast<void>(backend.arena().take<double>(1));
    backend.arena().commit();
    EXPECT_EQ(run(), 1);  // the last network alone
    EXPECT_EQ(communicator.record().total(comm::Operation::all_reduce).calls, 2);
    EXPECT_EQ(std::count(gradient.begin(), gradient.end(), 2.0), network);
  });
}

}  // namespace
}  // namespace tessera::test
