#include "tessera/comm/staged.hpp"

#include <functional>

#include "cuda/collectives.hpp"
#include "tessera/concepts.hpp"

namespace tessera::test {
namespace {

using namespace std::chrono_literals;
using Staged = comm::Staged<comm::Threads>;

static_assert(Communicator<Staged, RankBackend> && Communicator<Staged, RankLane>);
static_assert(!Communicator<Staged, comm::Host>, "what is on the host goes to C itself");

class DeviceStaged : public DeviceTest<float> {};

// Calls body(communicator) on a thread for each rank.
void for_ranks(int ranks, const std::function<void(Staged&)>& body) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  comm::run_threads(ranks, [&](comm::Threads& threads) {
    cuda::open_device(0);
    threads.set_deadline(20s);
    Staged communicator(threads);
    body(communicator);
  });
}

struct Values {
  RankBackend backend;
  RankValues<float> values{std::vector<float>(10)};
};

TEST_F(DeviceStaged, OperationsEqualTheirDefinitions) {
  for (const int ranks : numbers_of_ranks())
    for_ranks(ranks, [](Staged& communicator) { check_all_operations(communicator); });
}

TEST_F(DeviceStaged, IsRecordedOnBackendAndLane) {
  in_all_orders([] {
    for (const int ranks : numbers_of_ranks())
      for_ranks(ranks, [](Staged& communicator) { check_recording(communicator); });
  });
}

// Of random values, in the order of ranks: the bits of Threads, and of one process that adds them up.
TEST_F(DeviceStaged, KeepsTheOrderOfSummation) {
  const int ranks = numbers_of_ranks().back();
  const index count = 3000;
  std::vector<std::vector<float>> of_rank;
  for (int rank = 0; rank < ranks; ++rank) {
    Random random(5, Purpose::test, static_cast<std::uint32_t>(rank), 0);
    of_rank.emplace_back();
    for (index i = 0; i < count; ++i) of_rank.back().push_back(static_cast<float>(random.normal()));
  }
  std::vector<float> expected = of_rank[0];
  for (int rank = 1; rank < ranks; ++rank)
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += of_rank[static_cast<std::size_t>(rank)][i];
  for_ranks(ranks, [&](Staged& communicator) {
    RankBackend backend;
    const RankValues<float> values(of_rank[static_cast<std::size_t>(communicator.rank())]);
    communicator.all_reduce(backend, values.data(), count);
    communicator.wait(backend);
    expect_values("all_reduce", values, expected);
  });
}

// A later call that needs more memory leaves a recording what it was recorded with.
TEST_F(DeviceStaged, RecordingsOutliveLargerCalls) {
  for_ranks(numbers_of_ranks().back(), [](Staged& communicator) {
    const int rank = communicator.rank(), ranks = communicator.size();
    const index small = 100, large = 100000;
    RankBackend backend;
    make_plan(backend);
    const RankValues<float> few(values_of_rank<float>(rank, small)), many(values_of_rank<float>(rank, large));
    cuda::Recording recording;
    const auto step = [&] { communicator.all_reduce(backend, few.data(), small); };
    backend.replay(recording, step);
    communicator.all_reduce(backend, many.data(), large);
    communicator.wait(backend);
    expect_values("larger", many, sums_of_ranks<float>(ranks, large));
    few.assign(values_of_rank<float>(rank, small, 1));
    backend.replay(recording, step);
    communicator.wait(backend);
    expect_values("recorded", few, sums_of_ranks<float>(ranks, small, 1));
  });
}

TEST_F(DeviceStaged, ACallAfterAbortFails) {
  for_ranks(1, [](Staged& communicator) {
    Values on;
    Staged beside = communicator.duplicate();
    communicator.abort();
    beside.all_reduce(on.backend, on.values.data(), 8);
    EXPECT_THAT([&] { beside.wait(on.backend); }, loses_with("rank 0 gave up"));
    EXPECT_THAT([&] { communicator.wait(on.backend); }, loses_with("rank 0 gave up"));
    EXPECT_THAT([&] { communicator.broadcast(on.backend, on.values.data(), 1); }, loses_with("rank 0 gave up"));
  });
}

#if defined(TESSERA_EMULATION)

TEST_F(DeviceStaged, TheDeadlineNamesTheSilentRank) {
  for_ranks(3, [](Staged& communicator) {
    Values on;
    communicator.set_deadline(200ms);
    communicator.all_reduce(on.backend, on.values.data(), 10);
    communicator.wait(on.backend);
    if (communicator.rank() == 1) {
      std::this_thread::sleep_for(500ms);
      return;
    }
    communicator.broadcast(on.backend, on.values.data(), 7);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT([&] { communicator.wait(on.backend); },
                loses_with("broadcast of 7 float (call 2)", "rank 1 did not come", "0.2 s"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
    EXPECT_THAT([&] { communicator.all_reduce(on.backend, on.values.data(), 1); }, loses_with("rank 1 did not come"));
  });
}

TEST_F(DeviceStaged, TheDeadlineHoldsForReplays) {
  for_ranks(2, [](Staged& communicator) {
    Values on;
    make_plan(on.backend);
    cuda::Recording recording;
    const auto step = [&] { communicator.all_reduce(on.backend, on.values.data(), 10); };
    on.backend.replay(recording, step);
    communicator.wait(on.backend);
    communicator.set_deadline(200ms);
    if (communicator.rank() == 1) {
      std::this_thread::sleep_for(500ms);
      return;
    }
    on.backend.replay(recording, step);
    EXPECT_THAT([&] { communicator.wait(on.backend); }, loses_with("all_reduce of 10 float (call 2)", "rank 1"));
  });
}

TEST_F(DeviceStaged, AbortEndsAWaitInAnotherThread) {
  for_ranks(2, [](Staged& communicator) {
    if (communicator.rank() == 1) return std::this_thread::sleep_for(200ms);
    Values on;
    communicator.all_reduce(on.backend, on.values.data(), 10);
    std::thread other([&] {
      std::this_thread::sleep_for(50ms);
      communicator.abort();
    });
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT([&] { communicator.wait(on.backend); }, loses_with("rank 0 gave up"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
    other.join();
  });
}

// The failing rank has itself work under way that waits for the others. Memory that work is under way on must outlive
// the communicator, for the device waits when it is freed.
TEST_F(DeviceStaged, AnExceptionEndsTheOthers) {
  const auto start = std::chrono::steady_clock::now();
  std::array<std::unique_ptr<Values>, 3> values;
  EXPECT_THAT(([&] {
                for_ranks(3, [&](Staged& communicator) {
                  auto& of_rank = values[static_cast<std::size_t>(communicator.rank())];
                  of_rank = std::make_unique<Values>();
                  Values& on = *of_rank;
                  if (communicator.rank() == 2) {
                    communicator.all_reduce(on.backend, on.values.data(), 10);
                    throw Error("the disk is full");
                  }
                  if (communicator.rank() == 0) {
                    communicator.all_reduce(on.backend, on.values.data(), 10);
                    communicator.wait(on.backend);
                  }
                });
              }),
              testing::ThrowsMessage<Error>("the disk is full"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(DeviceStaged, DifferentCallsAreNoticed) {
  for_ranks(2, [](Staged& communicator) {
    Values on;
    communicator.all_reduce(on.backend, on.values.data(), 5 + communicator.rank());
    EXPECT_THAT([&] { communicator.wait(on.backend); },
                loses_with("rank 0 calls all_reduce of 5 float", "rank 1 calls all_reduce of 6 float"));
  });
}

#endif

}  // namespace
}  // namespace tessera::test
