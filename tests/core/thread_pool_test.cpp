#include "tessera/core/thread_pool.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tessera/core/errors.hpp"

namespace tessera::test {
namespace {

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (const int threads : {1, 2, 5, 16}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> visits(137);
      pool.for_pieces(137, 1 + round % 9, [&](index first, index last, int worker) {
        ASSERT_LT(worker, threads);
        for (index i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(visits, std::vector<int>(137, 1));
    }
  }
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.for_pieces(20, 1,
                               [](index first, index, int) {
                                 if (first == 11) fail("piece {}", first);
                               }),
               Error);
  std::atomic<int> count{0};
  pool.for_pieces(20, 1, [&](index, index, int) { ++count; });
  EXPECT_EQ(count, 20);
}

}  // namespace
}  // namespace tessera::test
