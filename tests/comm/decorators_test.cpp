#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <iterator>

#include "comm/collective_suite.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/testing/checked.hpp"
#include "tessera/testing/faulty.hpp"

namespace tessera::test {
namespace {

using comm::Operation;
using comm::Recorded;
using comm::Threads;
using testing::Checked;
using testing::Fault;
using testing::Faulty;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

static_assert(Communicator<Checked<Recorded<Faulty<comm::Serial>>>>);
static_assert(Communicator<Faulty<Checked<Recorded<Threads>>>>);

TEST(Decorators, ChangeNoResult) {
  comm::run_threads(3, [](Threads& threads) {
    Checked communicator{Recorded{Faulty<Threads>{threads}}};
    check_counts<double>(communicator);
    check_cuts(communicator);
    check_duplicate(communicator);
  });
}

TEST(Decorators, PassFailuresOn) {
  comm::run_threads(3, [](Threads& threads) {
    Checked communicator{Recorded{Faulty<Threads>{threads}}};
    check_abort(communicator);
  });
  comm::run_threads(3, [](Threads& threads) {
    Recorded communicator(Faulty<Threads>{threads});
    check_silent_rank(communicator, [] { std::this_thread::sleep_for(3 * short_deadline); });
  });
}

TEST(Checked, NamesRanksAndCallsThatDiffer) {
  comm::run_threads(3, [](Threads& threads) {
    Checked communicator(threads);
    check_disagreement(communicator);
  });
}

TEST(Checked, FindsOtherTypesAndCuts) {
  comm::run_threads(2, [](Threads& threads) {
    Checked communicator(threads);
    comm::Host host;
    double values[6] = {};
    float others[6] = {};
    const std::string message = lost([&] {
      if (communicator.rank() == 1)
        communicator.all_reduce(host, others, 6);
      else
        communicator.all_reduce(host, values, 6);
    });
    require_in("rank 0 calls all_reduce of 6 double (call 1), rank 1 calls all_reduce of 6 float (call 1)", message);
  });
  comm::run_threads(2, [](Threads& threads) {
    Checked communicator(threads);
    comm::Host host;
    double values[6] = {};
    const index displacements[] = {0, 2 + communicator.rank(), 6};
    require_in("rank 1 calls the same with other displacements",
               lost([&] { communicator.reduce_scatter(host, values, comm::Displacements(displacements)); }));
  });
}

TEST(Recorded, CountsCallsAndBytesOfDuplicatesToo) {
  Recorded communicator{comm::Serial()};
  auto duplicate = communicator.duplicate();
  comm::Host host;
  double values[10] = {};
  const index displacements[] = {0, 10};
  for (int i = 0; i < 3; ++i) communicator.all_reduce(host, values, 10);
  duplicate.all_reduce(host, values, 5);
  duplicate.all_gather(host, values, comm::Displacements(displacements));
  communicator.reduce_scatter(host, values, comm::Displacements(displacements));
  const auto& record = communicator.record();
  EXPECT_EQ(record.total(Operation::all_reduce).calls, 4);
  EXPECT_EQ(record.total(Operation::all_reduce).bytes, (3 * 10 + 5) * 8);
  EXPECT_GE(record.total(Operation::all_reduce).seconds, 0);
  EXPECT_EQ(record.total(Operation::all_gather).bytes, 80);
  EXPECT_EQ(record.total(Operation::reduce_scatter).calls, 1);
  EXPECT_EQ(record.total(Operation::broadcast).calls, 0);
  EXPECT_THAT(record.last_calls(), HasSubstr("rank 0 lane 0: all_reduce of 10 double (call 3) took 0.0"));
  EXPECT_THAT(record.last_calls(), HasSubstr("rank 0 lane 1: all_gather of 10 double (call 2) took 0.0"));
}

TEST(Recorded, RemembersTheLastCallsOnly) {
  Recorded communicator{comm::Serial()};
  comm::Host host;
  float value = 0;
  for (int i = 0; i < 100; ++i) communicator.broadcast(host, &value, 1);
  const std::string last = communicator.record().last_calls();
  EXPECT_EQ(std::count(last.begin(), last.end(), '\n'), 64);
  EXPECT_THAT(last, Not(HasSubstr("(call 36)")));
  EXPECT_THAT(last, HasSubstr("(call 37)"));
  EXPECT_THAT(last, HasSubstr("(call 100)"));
  EXPECT_EQ(communicator.record().total(Operation::broadcast).calls, 100);
}

TEST(Recorded, TellsCallsThatRunAndCallsThatFailed) {
  comm::run_threads(2, [](Threads& threads) {
    Recorded communicator{Threads(threads)};
    communicator.set_deadline(short_deadline);
    if (communicator.rank() == 1) return std::this_thread::sleep_for(2 * short_deadline);
    std::thread waiting([&] {
      comm::Host host;
      float value = 0;
      EXPECT_THROW(communicator.all_reduce(host, &value, 1), comm::RankLost);
    });
    std::this_thread::sleep_for(short_deadline / 2);
    EXPECT_THAT(communicator.record().last_calls(),
                HasSubstr("all_reduce of 1 float (call 1) has been running for 0."));
    waiting.join();
    EXPECT_THAT(communicator.record().last_calls(), HasSubstr("all_reduce of 1 float (call 1) failed after 0."));
    EXPECT_EQ(communicator.record().total(Operation::all_reduce).calls, 0);
  });
}

TEST(Recorded, WritesATrace) {
  const std::string path = ::testing::TempDir() + "/tessera_trace.tsv";
  Recorded communicator{comm::Serial()};
  communicator.record().trace(path);
  comm::Host host;
  std::uint64_t values[5] = {};
  communicator.all_reduce(host, values, 5);
  communicator.broadcast(host, values, 2);
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(text, ::testing::StartsWith("rank\tlane\tcall\toperation\ttype\tcount\tbytes\tstart\tseconds\n"));
  EXPECT_THAT(text, HasSubstr("\n0\t0\t1\tall_reduce\tint64\t5\t40\t"));
  EXPECT_THAT(text, HasSubstr("\n0\t0\t2\tbroadcast\tint64\t2\t16\t"));
  EXPECT_THAT(
      [&] { communicator.record().trace("/nowhere/trace.tsv"); },
      ThrowsMessage<Error>(HasSubstr("/nowhere/trace.tsv: the trace of calls cannot be written: No such file")));
}

// Sums one double on each of two ranks three times; rank 1 has the fault. Returns rank 0's sums.
std::vector<double> three_sums(const Fault& fault) {
  std::vector<double> sums;
  comm::run_threads(2, [&](Threads& threads) {
    Faulty communicator(threads, threads.rank() == 1 ? fault : Fault{});
    comm::Host host;
    for (int i = 0; i < 3; ++i) {
      double value = 1;
      communicator.all_reduce(host, &value, 1);
      if (communicator.rank() == 0) sums.push_back(value);
    }
  });
  return sums;
}

TEST(Faulty, CorruptsOneValueOfOneCall) {
  EXPECT_EQ(three_sums({}), (std::vector<double>{2, 2, 2}));
  EXPECT_EQ(three_sums({Fault::Kind::corruption, 2}), (std::vector<double>{2, 3, 2}));
}

TEST(Faulty, CorruptsTheRanksOwnPartOfAGather) {
  comm::run_threads(3, [](Threads& threads) {
    Faulty communicator(threads, Fault{threads.rank() == 1 ? Fault::Kind::corruption : Fault::Kind::none});
    comm::Host host;
    std::int32_t values[3] = {5, 5, 5};
    const index displacements[] = {0, 1, 2, 3};
    communicator.all_gather(host, values, comm::Displacements(displacements));
    EXPECT_THAT(values, ::testing::ElementsAre(5, 6, 5));
  });
}

TEST(Faulty, DelaysOneCall) {
  const Stopwatch watch;
  EXPECT_EQ(three_sums({Fault::Kind::delay, 2, std::chrono::milliseconds(200)}), (std::vector<double>{2, 2, 2}));
  EXPECT_GE(watch.seconds(), 0.2);
}

TEST(Faulty, Throws) {
  EXPECT_THAT(
      [] {
        three_sums({Fault::Kind::exception, 3});
      },
      ThrowsMessage<Error>("rank 1 throws in call 3, as its Fault says"));
}

// Processes that stop or die are tested by mpi_collectives with all ranks; here is that the signals are these.
TEST(FaultyDeathTest, Dies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto die = [] {
    Faulty communicator(comm::Serial(), Fault{Fault::Kind::death});
    comm::Host host;
    double value = 1;
    communicator.all_reduce(host, &value, 1);
  };
  EXPECT_EXIT(die(), ::testing::KilledBySignal(SIGKILL), "");
}

}  // namespace
}  // namespace tessera::test
