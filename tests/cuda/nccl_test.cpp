#include "tessera/comm/nccl.hpp"

#include <atomic>
#include <cstdlib>
#include <functional>

#include "cuda/collectives.hpp"
#include "tessera/concepts.hpp"

namespace tessera::test {
namespace {

using comm::Nccl, comm::RankLost;
using namespace std::chrono_literals;

static_assert(Communicator<Nccl, RankBackend> && Communicator<Nccl, RankLane>);
static_assert(!Communicator<Nccl, comm::Host>, "NCCL knows no memory of the host");

class DeviceNccl : public DeviceTest<float> {};

// Calls body(communicator) on a thread for each rank.
void for_ranks(int ranks, const std::function<void(Nccl&)>& body, std::chrono::milliseconds deadline = 20s) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  const ncclUniqueId id = Nccl::new_id();
  comm::run_threads(ranks, [&](comm::Threads& place) {
    cuda::open_device(0);
    Nccl communicator(place.rank(), place.size(), id, deadline);
    body(communicator);
  });
}

TEST_F(DeviceNccl, OperationsEqualTheirDefinitions) {
  for (const int ranks : numbers_of_ranks())
    for_ranks(ranks, [](Nccl& communicator) { check_all_operations(communicator); });
}

TEST_F(DeviceNccl, IsRecordedOnBackendAndLane) {
  in_all_orders([] {
    for (const int ranks : numbers_of_ranks())
      for_ranks(ranks, [](Nccl& communicator) { check_recording(communicator); });
  });
}

TEST_F(DeviceNccl, RefusesARankThatThereIsNot) {
  const ncclUniqueId id = Nccl::new_id();
  EXPECT_THAT([&] { Nccl(2, 2, id); }, testing::ThrowsMessage<Error>(testing::HasSubstr("rank 2 of 2 ranks")));
  EXPECT_THAT([&] { Nccl(0, 0, id); }, testing::ThrowsMessage<Error>(testing::HasSubstr("rank 0 of 0 ranks")));
}

TEST_F(DeviceNccl, DoesNotWaitForeverForARankThatNeverStarts) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT([] { Nccl(0, 2, Nccl::new_id(), 500ms); },
              loses_with("rank 0 of 2 meets the others: not done within 0.5 s"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(DeviceNccl, ACallAfterAbortThrowsAtOnce) {
  for_ranks(1, [](Nccl& communicator) {
    Nccl beside = communicator.duplicate();
    communicator.abort();
    communicator.abort();
    RankBackend backend;
    const RankValues<float> values(std::vector<float>(8));
    EXPECT_THAT([&] { beside.all_reduce(backend, values.data(), 8); }, loses_with("rank 0 gave up"));
    EXPECT_THAT([&] { communicator.all_reduce(backend, values.data(), 0); }, loses_with("rank 0 gave up"));
    EXPECT_THAT([&] { communicator.wait(backend); }, loses_with("rank 0 gave up"));
    EXPECT_THAT([&] { static_cast<void>(communicator.duplicate()); }, loses_with("rank 0 gave up"));
  });
}

#if defined(TESSERA_EMULATION)

using emulation::machine;

class EmulatedNccl : public DeviceNccl {
 protected:
  void SetUp() override { machine = {}; }
  void TearDown() override {
    EXPECT_EQ(machine.communicators, 0) << "communicators were left over";
    machine = {};
  }
};

struct Values {
  RankBackend backend;
  RankValues<float> values{std::vector<float>(10)};
};

// The tests of what NCCL is asked for set the variable themselves.
class EmulatedNcclOrder : public EmulatedNccl {
 protected:
  static constexpr const char* variable = "NCCL_LAUNCH_ORDER_IMPLICIT";

  void TearDown() override {
    ASSERT_EQ(::setenv(variable, "1", 1), 0);
    EmulatedNccl::TearDown();
  }
};

TEST_F(EmulatedNcclOrder, IsAskedForBeforeTheFirstCall) {
  ASSERT_EQ(::unsetenv(variable), 0);
  const ncclUniqueId id = Nccl::new_id();
  EXPECT_STREQ(std::getenv(variable), "1");
  ASSERT_EQ(::unsetenv(variable), 0);
  const Nccl communicator(0, 1, id);
  EXPECT_STREQ(std::getenv(variable), "1");
}

TEST_F(EmulatedNcclOrder, IsNotTakenAway) {
  const ncclUniqueId id = Nccl::new_id();
  for (const char* value : {"0", "off", ""}) {
    ASSERT_EQ(::setenv(variable, value, 1), 0);
    const auto refuses =
        testing::ThrowsMessage<Error>(testing::HasSubstr(fmt::format("NCCL_LAUNCH_ORDER_IMPLICIT is '{}'", value)));
    EXPECT_THAT([] { static_cast<void>(Nccl::new_id()); }, refuses);
    EXPECT_THAT([&] { Nccl(0, 1, id); }, refuses);
    EXPECT_STREQ(std::getenv(variable), value) << "the user's value is gone";
  }
}

TEST_F(EmulatedNcclOrder, NeedsAnNcclThatKnowsIt) {
  const ncclUniqueId id = Nccl::new_id();
  for (const auto& [version, name] :
       {std::pair{22505, "2.25.5"}, std::pair{20902, "2.9.2"}, std::pair{2804, "2.8.4"}}) {
    machine.nccl_version = version;
    const auto refuses = testing::ThrowsMessage<Error>(
        testing::HasSubstr(fmt::format("NCCL {} was found, but 2.26 or later is needed", name)));
    EXPECT_THAT([] { static_cast<void>(Nccl::new_id()); }, refuses);
    EXPECT_THAT([&] { Nccl(0, 1, id); }, refuses);
  }
  machine.nccl_version = 22602;
  EXPECT_NO_THROW(static_cast<void>(Nccl::new_id()));
}

TEST_F(EmulatedNccl, EndsWithoutAborting) {
  for_ranks(3, [](Nccl& communicator) {
    Values on;
    Nccl beside = communicator.duplicate(), third = beside.duplicate();
    third.all_reduce(on.backend, on.values.data(), 10);
    third.wait(on.backend);
  });
  EXPECT_EQ(machine.aborted, 0);
}

TEST_F(EmulatedNccl, TheDeadlineNamesTheLastCalls) {
  for_ranks(2, [](Nccl& communicator) {
    Values on;
    Nccl beside = communicator.duplicate();
    communicator.broadcast(on.backend, on.values.data(), 9);
    communicator.wait(on.backend);
    communicator.all_reduce(on.backend, on.values.data(), 10);
    communicator.wait(on.backend);
    machine.silent_network = true;
    communicator.set_deadline(200ms);
    beside.all_reduce(on.backend, on.values.data(), 7);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT([&] { communicator.wait(on.backend); },
                loses_with("all_reduce of 10 float (call 2)", "all_reduce of 7 float (call 1)", "within 0.2 s"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 2s);
    EXPECT_THAT([&] { beside.wait(on.backend); }, loses_with("within 0.2 s"));
    EXPECT_THAT([&] { communicator.broadcast(on.backend, on.values.data(), 1); }, loses_with("within 0.2 s"));
  });
  EXPECT_EQ(machine.aborted, 4);
}

TEST_F(EmulatedNccl, TheDeadlineHoldsForReplays) {
  for_ranks(1, [](Nccl& communicator) {
    Values on;
    make_plan(on.backend);
    cuda::Recording recording;
    const auto step = [&] { communicator.all_reduce(on.backend, on.values.data(), 10); };
    on.backend.replay(recording, step);
    communicator.wait(on.backend);
    machine.silent_network = true;
    communicator.set_deadline(100ms);
    on.backend.replay(recording, step);
    EXPECT_THAT([&] { communicator.wait(on.backend); }, loses_with("up to all_reduce of 10 float (call 1): not done"));
  });
}

TEST_F(EmulatedNccl, DifferentCallsEndAtTheDeadline) {
  for_ranks(2, [](Nccl& communicator) {
    Values on;
    communicator.set_deadline(200ms);
    communicator.all_reduce(on.backend, on.values.data(), 5 + communicator.rank());
    EXPECT_THAT([&] { communicator.wait(on.backend); },
                loses_with(communicator.rank() == 0 ? "all_reduce of 5 float" : "all_reduce of 6 float"));
  });
}

TEST_F(EmulatedNccl, AbortEndsAWaitInAnotherThread) {
  machine.silent_network = true;
  for_ranks(1, [](Nccl& communicator) {
    Values on;
    Nccl beside = communicator.duplicate();
    communicator.all_reduce(on.backend, on.values.data(), 10);
    std::thread other([&] {
      std::this_thread::sleep_for(50ms);
      beside.abort();
    });
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT([&] { communicator.wait(on.backend); }, loses_with("rank 0 gave up"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
    other.join();
  });
  EXPECT_EQ(machine.aborted, 2);
}

TEST_F(EmulatedNccl, ANetworkErrorEndsTheWait) {
  for_ranks(1, [](Nccl& communicator) {
    Values on;
    machine.silent_network = true;
    communicator.all_reduce(on.backend, on.values.data(), 10);
    machine.failing_network = true;
    EXPECT_THAT([&] { communicator.wait(on.backend); },
                loses_with("all_reduce of 10 float (call 1): NCCL failed", "network error", "emulated network"));
  });
  EXPECT_EQ(machine.aborted, 1);
}

TEST_F(EmulatedNccl, MisuseIsNoLostRank) {
  const ncclUniqueId id = Nccl::new_id();
  EXPECT_THAT([&] { Nccl(0, 2, id, 50ms); }, loses_with("rank 0 of 2"));
  try {
    Nccl(0, 3, id);
    ADD_FAILURE() << "a group of 3 was taken for one of 2";
  } catch (const RankLost&) {
    ADD_FAILURE() << "a program that is wrong would be restarted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("each rank needs a device of its own"));
  }
}

TEST_F(EmulatedNccl, AnExceptionAborts) {
  EXPECT_THAT(([] {
                for_ranks(2, [](Nccl& communicator) {
                  Nccl beside = communicator.duplicate();
                  if (communicator.rank() == 1) throw Error("the disk is full");
                });
              }),
              testing::ThrowsMessage<Error>("the disk is full"));
  EXPECT_EQ(machine.aborted, 2);
}

#endif

}  // namespace
}  // namespace tessera::test
