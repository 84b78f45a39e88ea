#include "comm/collective_suite.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"

namespace tessera::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(Serial, DoesWhatTheDefinitionSays) {
  static_assert(std::is_empty_v<comm::Serial>);
  comm::Serial serial;
  check_all(serial);
}

class ThreadRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(All, ThreadRanks, ::testing::Range(1, 17));

TEST_P(ThreadRanks, DoWhatTheDefinitionSays) {
  comm::run_threads(GetParam(), [](comm::Threads& communicator) { check_all(communicator); });
}

TEST(Threads, NameTheRankThatIsSilent) {
  comm::run_threads(3, [](comm::Threads& communicator) {
    check_silent_rank(communicator, [] { std::this_thread::sleep_for(3 * short_deadline); });
  });
}

TEST(Threads, AbortEndsCallsThatWait) {
  comm::run_threads(3, [](comm::Threads& communicator) { check_abort(communicator); });
}

TEST(Threads, ExceptionOfOneRankEndsAll) {
  const Stopwatch watch;
  const auto run = [] {
    comm::run_threads(4, [](comm::Threads& communicator) {
      comm::Host host;
      float value = 1;
      communicator.all_reduce(host, &value, 1);
      if (communicator.rank() == 2) fail("rank 2 has no data");
      require_in("rank 2 gave up", lost([&] { communicator.all_reduce(host, &value, 1); }));
    });
  };
  EXPECT_THAT(run, ThrowsMessage<Error>("rank 2 has no data"));
  EXPECT_LT(watch.seconds(), 2);
}

// abort() at any moment, also between the arrival of the last rank and the others' waking up: nobody stays behind.
TEST(Threads, AbortAtAnyMomentLeavesNobodyWaiting) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::atomic<int> calls = 0;
    const auto run = [&] {
      comm::run_threads(4, [&](comm::Threads& communicator) {
        comm::Host host;
        float value = 1;
        if (communicator.rank() == 3) {
          const std::jthread aborting([&, other = communicator]() mutable {
            while (calls < attempt % 8) std::this_thread::yield();
            other.abort();
          });
          for (;; ++calls) communicator.all_reduce(host, &value, 1);
        }
        for (;;) communicator.all_reduce(host, &value, 1);
      });
    };
    EXPECT_THROW(run(), comm::RankLost);
  }
}

TEST(Threads, FindThatCallsDiffer) {
  comm::run_threads(3, [](comm::Threads& communicator) { check_disagreement(communicator); });
}

TEST(EvenCut, CoversTheCountWithMultiples) {
  for (const index count : {0, 1, 63, 64, 65, 1000})
    for (const int ranks : {1, 2, 3, 16}) {
      const auto displacements = even_cuts(count, ranks, 64);
      EXPECT_EQ(displacements.front(), 0);
      EXPECT_EQ(displacements.back(), count);
      for (std::size_t r = 1; r < displacements.size(); ++r) {
        EXPECT_LE(displacements[r - 1], displacements[r]);
        EXPECT_TRUE(displacements[r] % 64 == 0 || displacements[r] == count) << displacements[r];
      }
    }
}

}  // namespace
}  // namespace tessera::test
