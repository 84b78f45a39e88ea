#include "tessera/comm/rendezvous/rendezvous.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace tessera {
namespace {

using namespace std::chrono_literals;
using comm::Place;
using comm::Store;
using comm::StoreSettings;
using comm::detail::Kind;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using Clock = std::chrono::steady_clock;

const comm::Token token = [] {
  comm::Token made;
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = static_cast<std::byte>(17 * i + 3);
  return made;
}();

StoreSettings settings(std::chrono::milliseconds deadline = 20s) {
  StoreSettings made;
  made.token = token;
  made.deadline = deadline;
  return made;
}

Place place(int rank, int size, int port = 0, const std::string& address = "127.0.0.1") {
  return {rank, size, rank, address, port, "the test"};
}

Store::Blob blob(int seed, std::size_t size) {
  Store::Blob bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(static_cast<std::size_t>(seed) * 31 + i);
  return bytes;
}

std::size_t descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// How a rank ended: "" if all was well, "lost: ..." or "error: ...".
template <class Body>
std::string outcome(Body&& body) {
  try {
    body();
    return "";
  } catch (const comm::RankLost& error) {
    return fmt::format("lost: {}", error.what());
  } catch (const std::exception& error) {
    return fmt::format("error: {}", error.what());
  }
}

using Body = std::function<void(Store&, int rank)>;

// Runs the ranks from first to last on threads beside a host; outcomes by rank.
std::vector<std::string> join(Store& host, int size, int first, int last, const StoreSettings& how, const Body& body) {
  std::vector<std::string> outcomes(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  threads.emplace_back([&] { outcomes[0] = outcome([&] { body(host, 0); }); });
  for (int rank = first; rank <= last; ++rank)
    threads.emplace_back([&, rank] {
      outcomes[static_cast<std::size_t>(rank)] = outcome([&] {
        Store store(place(rank, size, host.port()), how);
        body(store, rank);
      });
    });
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

// All ranks, beginning with rank 0; their stores end when all bodies have.
std::vector<std::string> run_ranks(int size, const Body& body, const StoreSettings& how = settings()) {
  Store host(place(0, size), how);
  return join(host, size, 1, size - 1, how, body);
}

void expect_exchange(Store& store, int rank, int size, int round = 1) {
  const auto bytes = [&](int r) { return static_cast<std::size_t>((r * 977 + round * 1331) % 4097); };
  const std::vector<Store::Blob> all = store.exchange(blob(rank + round, bytes(rank)));
  ASSERT_EQ(all.size(), static_cast<std::size_t>(size));
  for (int r = 0; r < size; ++r)
    EXPECT_EQ(all[static_cast<std::size_t>(r)], blob(r + round, bytes(r))) << "rank " << r << " of " << size;
}

void expect_all_well(const std::vector<std::string>& outcomes) {
  for (const std::string& one : outcomes) EXPECT_EQ(one, "");
}

// Somebody who speaks to rank 0 in bytes.
class Stranger {
 public:
  explicit Stranger(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    std::string why;
    const comm::detail::Endpoint to = comm::detail::resolve("127.0.0.1", port, why).at(0);
    if (::connect(socket_.get(), to.address(), to.size) != 0) ADD_FAILURE() << comm::detail::system_error();
  }

  void say(std::span<const std::byte> bytes) const { ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  void fall_silent() const { ::shutdown(socket_.get(), SHUT_WR); }

  // The next `size` bytes, or fewer if the connection ends or nothing comes for 5 s.
  [[nodiscard]] Store::Blob hear(std::size_t size) const {
    Store::Blob bytes;
    while (bytes.size() < size) {
      pollfd ask{socket_.get(), POLLIN, 0};
      if (::poll(&ask, 1, 5000) <= 0) break;
      std::byte byte{};
      if (::recv(socket_.get(), &byte, 1, 0) <= 0) break;
      bytes.push_back(byte);
    }
    return bytes;
  }
  // Rank 0's reason to refuse us.
  [[nodiscard]] std::string reason() const {
    const Store::Blob header = hear(comm::detail::header_bytes);
    if (header.size() < comm::detail::header_bytes) return "(the connection ended)";
    if (header[6] != static_cast<std::byte>(Kind::refused)) return "(no refusal)";
    const auto size = std::to_integer<std::size_t>(header[16]) + 256 * std::to_integer<std::size_t>(header[17]);
    return comm::detail::printable(hear(size));
  }
  [[nodiscard]] bool hung_up_on() const {
    pollfd ask{socket_.get(), POLLIN, 0};
    std::byte byte{};
    return ::poll(&ask, 1, 0) > 0 && ::recv(socket_.get(), &byte, 1, MSG_PEEK) <= 0;
  }

 private:
  comm::detail::Descriptor socket_;
};

Store::Blob frame(Kind kind, int rank, std::uint32_t number, std::span<const std::byte> bytes) {
  return *comm::detail::encode(kind, rank, number, bytes);
}
Store::Blob hello(int rank, int size) {
  return frame(Kind::hello, rank, static_cast<std::uint32_t>(size), token);
}
Store::Blob changed(Store::Blob bytes, std::size_t at, int value) {
  bytes[at] = static_cast<std::byte>(value);
  return bytes;
}

TEST(Store, EveryRankGetsAllBlobs) {
  for (const int size : {1, 2, 5, 16}) {
    const std::size_t before = descriptors();
    expect_all_well(run_ranks(size, [&](Store& store, int rank) {
      EXPECT_EQ(store.rank(), rank);
      EXPECT_EQ(store.size(), size);
      for (int round = 1; round <= 5; ++round) expect_exchange(store, rank, size, round);
      EXPECT_EQ(store.broadcast(blob(rank == 0 ? 7 : 8, 128)), blob(7, 128));
      expect_exchange(store, rank, size, 6);
    }));
    EXPECT_EQ(descriptors(), before) << "left open by " << size << " ranks";
  }
}

TEST(Store, TheLargestBlobIsFourKibibytes) {
  expect_all_well(run_ranks(2, [&](Store& store, int) {
    EXPECT_EQ(store.exchange(blob(1, 4096))[1], blob(1, 4096));
    EXPECT_EQ(outcome([&] { (void)store.exchange(blob(1, 4097)); }),
              "error: a blob of 4097 bytes, but a store takes at most 4096");
    EXPECT_EQ(store.exchange({})[1], Store::Blob{});
  }));
}

TEST(Store, MeetsByNameAndOverIPv6) {
  for (const std::string address : {"localhost", "::1"}) {
    std::unique_ptr<Store> host;
    if (const std::string why = outcome([&] { host = std::make_unique<Store>(place(0, 2, 0, address), settings()); });
        !why.empty()) {
      EXPECT_EQ(address, "::1") << why;
      continue;  // a machine without IPv6
    }
    Store connection(place(1, 2, host->port(), address), settings());
    std::thread thread([&] { expect_exchange(connection, 1, 2); });
    expect_exchange(*host, 0, 2);
    thread.join();
  }
}

TEST(Store, DescriptorsCloseWhenAnotherProgramIsRun) {
  expect_all_well(run_ranks(2, [](Store& store, int rank) {
    expect_exchange(store, rank, 2);
    if (rank != 0) return;
    for (const auto& one : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int descriptor = std::stoi(one.path().filename());
      std::error_code gone;
      const std::string what = std::filesystem::read_symlink(one.path(), gone).string();
      if (what.starts_with("socket:") && (::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) == 0) ADD_FAILURE() << what;
    }
  }));
}

TEST(Store, WaitsForLateRanks) {
  expect_all_well(run_ranks(3, [](Store& store, int rank) {
    if (rank == 2) std::this_thread::sleep_for(300ms);
    expect_exchange(store, rank, 3);
  }));
  Store host(place(0, 3), settings());
  std::thread late([&] {
    std::this_thread::sleep_for(300ms);
    Store connection(place(2, 3, host.port()), settings());
    expect_exchange(connection, 2, 3);
  });
  expect_all_well(join(host, 3, 1, 1, settings(), [](Store& store, int rank) { expect_exchange(store, rank, 3); }));
  late.join();
}

TEST(Store, OthersKnockUntilRankZeroIsThere) {
  const int port = Store(place(0, 2), settings()).port();
  std::thread early([&] {
    Store connection(place(1, 2, port), settings());
    expect_exchange(connection, 1, 2);
  });
  std::this_thread::sleep_for(200ms);
  Store host(place(0, 2, port), settings());
  expect_exchange(host, 0, 2);
  early.join();
}

TEST(Store, AtTheDeadlineAllLearnWhoNeverCame) {
  const auto start = Clock::now();
  const StoreSettings how = settings(400ms);
  Store host(place(0, 4), how);
  const auto outcomes = join(host, 4, 1, 2, how, [](Store& store, int rank) { expect_exchange(store, rank, 4); });
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_EQ(outcomes[static_cast<std::size_t>(rank)],
              fmt::format("lost: exchange 1, after 0.4 s: rank 3 never came to 127.0.0.1:{}", host.port()));
  EXPECT_LT(seconds_since(start), 2);
  EXPECT_THAT(outcome([&] { (void)host.exchange({}); }), HasSubstr("rank 3 never came")) << "later calls throw at once";
}

TEST(Store, RanksThatComeAfterTheEndAreTold) {
  Store host(place(0, 2), settings());
  host.abort("the disk is full");
  const auto start = Clock::now();
  Store late(place(1, 2, host.port()), settings());
  EXPECT_EQ(outcome([&] { (void)late.exchange({}); }), "lost: rank 0 gave up: the disk is full");
  StoreSettings stray = settings();
  stray.token[0] = std::byte{99};
  Store stranger(place(1, 2, host.port()), stray);
  EXPECT_THAT(outcome([&] { (void)stranger.exchange({}); }), HasSubstr("its token is not this job's"));
  EXPECT_LT(seconds_since(start), 2);
}

TEST(Store, AtTheDeadlineAllLearnWhoDidNotTakePart) {
  for (const int silent : {0, 2}) {
    const auto outcomes = run_ranks(
        3,
        [&](Store& store, int rank) {
          expect_exchange(store, rank, 3);
          if (rank == silent) std::this_thread::sleep_for(800ms);
          expect_exchange(store, rank, 3);
        },
        settings(400ms));
    for (const std::string& one : outcomes)
      EXPECT_EQ(one, fmt::format("lost: exchange 2, after 0.4 s: rank {} did not take part", silent));
  }
}

TEST(Store, SaysThatRankZeroIsNotThere) {
  const int port = Store(place(0, 2), settings()).port();
  const auto start = Clock::now();
  std::string heard;
  std::string thrown;
  {
    Store connection(place(1, 2, port), settings(300ms), [&](const std::string& why) { heard = why; });
    thrown = outcome([&] { (void)connection.exchange({}); });
  }
  EXPECT_EQ(thrown, fmt::format("lost: rank 1 found no rank 0 at 127.0.0.1:{0} within 0.3 s: the connection to "
                                "127.0.0.1:{0} broke: Connection refused",
                                port));
  EXPECT_EQ("lost: " + heard, thrown);
  EXPECT_LT(seconds_since(start), 2);
}

TEST(Store, GivesUpOnAListenerThatNeverAnswers) {
  std::string why;
  comm::detail::Endpoint here = comm::detail::resolve("127.0.0.1", 0, why).at(0);
  const comm::detail::Descriptor mute = here.socket();
  ASSERT_EQ(::bind(mute.get(), here.address(), here.size), 0);
  ASSERT_EQ(::listen(mute.get(), 8), 0);
  ASSERT_EQ(::getsockname(mute.get(), here.address(), &here.size), 0);
  Store connection(place(1, 2, here.port()), settings(300ms));
  EXPECT_THAT(outcome([&] { (void)connection.exchange({}); }),
              AllOf(StartsWith("lost: rank 1 found no rank 0"), HasSubstr("brought no answer")));
}

TEST(Store, PlacesThatCannotBeAreErrors) {
  const auto made = [](const Place& where, const StoreSettings& how) {
    return outcome([&] { Store store(where, how); });
  };
  EXPECT_EQ(made(place(1, 2, 80, ""), settings()),
            "error: rank 1 of 2 does not know where rank 0 is; set MASTER_ADDR and MASTER_PORT");
  EXPECT_EQ(made(place(1, 2, 0), settings()), "error: rank 1 of 2 does not know rank 0's port; set MASTER_PORT");
  EXPECT_THAT(made(place(0, 2, 0, "192.0.2.1"), settings()),
              AllOf(HasSubstr("192.0.2.1:0: Cannot assign"), HasSubstr("must be an address of rank 0's host")));
  Store host(place(0, 2), settings());
  EXPECT_THAT(made(place(0, 2, host.port()), settings()), HasSubstr("Address already in use"));
  EXPECT_THAT(made(place(2, 2, 80), settings()), HasSubstr("rank 2 of 2"));
  StoreSettings still = settings();
  still.beat = 0ms;
  EXPECT_EQ(made(place(0, 2), still), "error: a store's beat of 0 ms and hello of 5000 ms must be longer than 0");
}

TEST(Store, WithoutATokenRanksMeetOnOneHostOnly) {
  StoreSettings open = settings();
  open.token = {};
  expect_all_well(run_ranks(
      2, [](Store& store, int rank) { expect_exchange(store, rank, 2); }, open));
  EXPECT_THAT(outcome([&] { Store host(place(0, 2, 0, "0.0.0.0"), open); }),
              AllOf(StartsWith("error: 0.0.0.0:0 can be reached from other hosts"), HasSubstr("TESSERA_TOKEN")));
  open.listen = "0.0.0.0";
  EXPECT_THAT(outcome([&] { Store host(place(0, 2), open); }), HasSubstr("can be reached from other hosts"));
  Store connection(place(1, 2, 80, "192.0.2.1"), open);
  EXPECT_THAT(outcome([&] { (void)connection.exchange({}); }), StartsWith("error: 192.0.2.1:80 can be reached"));
  StoreSettings closed = settings();
  closed.listen = "0.0.0.0";
  expect_all_well(run_ranks(
      2, [](Store& store, int rank) { expect_exchange(store, rank, 2); }, closed));
}

TEST(Store, TokensAreReadAndNeverTold) {
  const auto lookup = [](const std::map<std::string, std::string>& variables) -> comm::Lookup {
    return [variables](const std::string& name) -> std::optional<std::string> {
      const auto found = variables.find(name);
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    };
  };
  const auto error = [&](const std::map<std::string, std::string>& variables) {
    return outcome([&] { (void)comm::read_token(lookup(variables)); });
  };
  const std::string digits = "000102030405060708090a0b0c0d0eff";
  comm::Token expected;
  for (std::size_t i = 0; i < 15; ++i) expected[i] = static_cast<std::byte>(i);
  expected[15] = std::byte{255};
  EXPECT_EQ(comm::read_token(lookup({})), comm::Token{});
  EXPECT_EQ(comm::read_token(lookup({{"TESSERA_TOKEN", digits}})), expected);

  const std::string path = testing::TempDir() + fmt::format("tessera_token_{}", ::getpid());
  std::ofstream(path) << digits << '\n';
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  EXPECT_EQ(error({{"TESSERA_TOKEN_FILE", path}}),
            fmt::format("error: {0}: holds a token, but others may read it; chmod 600 {0}", path));
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(comm::read_token(lookup({{"TESSERA_TOKEN_FILE", path}})), expected);
  std::ofstream(path) << digits << digits << digits;
  EXPECT_THAT(error({{"TESSERA_TOKEN_FILE", path}}), AllOf(HasSubstr("32 hexadecimal digits"), Not(HasSubstr("0102"))));
  std::filesystem::remove(path);
  EXPECT_THAT(error({{"TESSERA_TOKEN_FILE", path}}), HasSubstr("open failed: No such file"));
  EXPECT_THAT(error({{"TESSERA_TOKEN_FILE", "/"}}), HasSubstr("not a regular file"));

  EXPECT_EQ(error({{"TESSERA_TOKEN", digits}, {"TESSERA_TOKEN_FILE", path}}),
            "error: TESSERA_TOKEN and TESSERA_TOKEN_FILE are both set; unset one");
  for (const std::string& wrong : {std::string(), digits.substr(1), digits + "0", "G" + digits.substr(1)})
    EXPECT_EQ(error({{"TESSERA_TOKEN", wrong}}),
              "error: TESSERA_TOKEN does not hold 32 hexadecimal digits; make them with `openssl rand -hex 16`");
  EXPECT_THAT(error({{"TESSERA_TOKEN", std::string(32, '0')}}), HasSubstr("holds zeros"));
}

TEST(Store, StrangersAreToldWhyAndDisturbNobody) {
  Store host(place(0, 3), settings());
  Stranger rank_2(host.port());
  rank_2.say(hello(2, 3));
  ASSERT_EQ(rank_2.hear(comm::detail::header_bytes).at(6), static_cast<std::byte>(Kind::welcome));
  const Store::Blob request = [] {
    const auto bytes = std::as_bytes(std::span(std::string_view("GET / HTTP/1.1\r\nHost: tessera\r\n\r\n")));
    return Store::Blob(bytes.begin(), bytes.end());
  }();
  const Store::Blob good = hello(1, 3);
  const std::string wrong_token = "its token is not this job's; all ranks must have the same TESSERA_TOKEN";
  const std::pair<Store::Blob, std::string> cases[] = {
      {request, "the connection does not speak our protocol"},
      {changed(good, 0, 0), "the connection does not speak our protocol"},
      {changed(good, 4, 2), "the connection speaks version 2 of the protocol, not 1"},
      {changed(good, 19, 255), "the connection announced 4278190096 bytes, and a frame has at most 4096"},
      {changed(good, 17, 16), "the connection announced 4112 bytes, and a frame has at most 4096"},
      {changed(good, 6, 4), "it did not say hello"},
      {changed(good, 6, 0), "it did not say hello"},
      {changed(good, 7, 255), "it did not say hello"},
      {changed(good, 20, 0xaa), wrong_token},
      {changed(good, 35, 0xaa), wrong_token},
      {frame(Kind::hello, 1, 3, std::span(token).first(15)), wrong_token},
      {frame(Kind::hello, 1, 3, {}), wrong_token},
      {frame(Kind::hello, 1, 3, blob(0, 4096)), wrong_token},
      {hello(1, 2), "it is of a job of 2 ranks, and this job has 3"},
      {hello(1, -1), "it is of a job of 4294967295 ranks, and this job has 3"},
      {hello(0, 3), "it says that it is rank 0 of 3"},
      {hello(3, 3), "it says that it is rank 3 of 3"},
      {hello(-1, 3), "it says that it is rank 4294967295 of 3"},
      {hello(2, 3), "rank 2 came before; two processes have the same rank"},
  };
  for (const auto& [bytes, reason] : cases) {
    Stranger stranger(host.port());
    stranger.say(bytes);
    EXPECT_EQ(stranger.reason(), reason);
    EXPECT_TRUE(stranger.hear(1).empty()) << "not hung up on after: " << reason;
  }
  rank_2.say(frame(Kind::blob, 2, 1, blob(3, (2 * 977 + 1331) % 4097)));
  expect_all_well(join(host, 3, 1, 1, settings(), [](Store& store, int rank) { expect_exchange(store, rank, 3); }));
}

TEST(Store, EveryTruncationOfAHelloIsNoRank) {
  Store host(place(0, 2), settings());
  const Store::Blob good = hello(1, 2);
  ASSERT_EQ(good.size(), 36U);
  for (std::size_t size = 0; size < good.size(); ++size) {
    Stranger stranger(host.port());
    stranger.say(std::span(good).first(size));
    stranger.fall_silent();
    EXPECT_EQ(stranger.reason(), "the connection was closed") << size << " bytes";
  }
  expect_all_well(join(host, 2, 1, 1, settings(), [](Store& store, int rank) { expect_exchange(store, rank, 2); }));
}

TEST(Store, EveryFlippedBitOfAHelloIsNoRank) {
  Store host(place(0, 2), settings());
  for (std::size_t bit = 0; bit < 8 * hello(1, 2).size(); ++bit) {
    Store::Blob bytes = hello(1, 2);
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    Stranger stranger(host.port());
    stranger.say(bytes);
    stranger.fall_silent();
    EXPECT_THAT(stranger.reason(), Not(StartsWith("("))) << "byte " << bit / 8 << ", bit " << bit % 8;
  }
  expect_all_well(join(host, 2, 1, 1, settings(), [](Store& store, int rank) { expect_exchange(store, rank, 2); }));
}

TEST(Store, WhoSpeaksTooSlowlyIsDropped) {
  StoreSettings how = settings();
  how.hello = 300ms;
  Store host(place(0, 2), how);
  const Store::Blob good = hello(1, 2);
  Stranger slow(host.port()), silent(host.port());
  const auto start = Clock::now();
  for (std::size_t i = 0; i < 10 && !slow.hung_up_on(); ++i) {
    slow.say(std::span(good).subspan(i, 1));
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_TRUE(slow.hung_up_on());
  EXPECT_TRUE(silent.hung_up_on());
  EXPECT_LT(seconds_since(start), 0.8);
  expect_all_well(join(host, 2, 1, 1, how, [](Store& store, int rank) { expect_exchange(store, rank, 2); }));
}

TEST(Store, AFloodIsHeldToTwiceTheRanks) {
  Store host(place(0, 2), settings());
  std::vector<std::unique_ptr<Stranger>> flood;
  const std::size_t before = descriptors();
  for (int i = 0; i < 200; ++i) flood.push_back(std::make_unique<Stranger>(host.port()));
  const auto held = [&] {
    return std::count_if(flood.begin(), flood.end(), [](const auto& one) { return !one->hung_up_on(); });
  };
  for (int i = 0; i < 100 && held() > 4; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_LE(held(), 4);
  EXPECT_LE(descriptors(), before + 200 + 4);
  expect_all_well(join(host, 2, 1, 1, settings(), [&](Store& store, int rank) {
    expect_exchange(store, rank, 2);
    if (rank == 1)
      for (int i = 0; i < 50; ++i) flood.push_back(std::make_unique<Stranger>(host.port()));
    expect_exchange(store, rank, 2, 2);
  }));
}

TEST(Store, ARankThatBreaksTheProtocolIsLost) {
  const Store::Blob good = frame(Kind::blob, 2, 1, blob(1, 8));
  const std::pair<Store::Blob, std::string> cases[] = {
      {changed(good, 0, 0), " does not speak our protocol"},
      {changed(good, 19, 1), " announced 16777224 bytes, and a frame has at most 4096"},
      {changed(good, 12, 7), "it takes part in exchange 7 while exchange 1 is under way"},
      {changed(good, 6, 1), "it sent a frame of kind 1, which ranks do not send"},
      {changed(good, 6, 99), "it sent a frame of kind 99, which ranks do not send"},
      {[&] {
         Store::Blob twice = good;
         twice.insert(twice.end(), good.begin(), good.end());
         return twice;
       }(),
       "it takes part in exchange 1 while exchange 1 is under way"},
  };
  for (const auto& [bytes, reason] : cases) {
    Store host(place(0, 3), settings());
    Stranger rank_2(host.port());
    rank_2.say(hello(2, 3));
    rank_2.say(bytes);
    for (const auto outcomes =
             join(host, 3, 1, 1, settings(), [](Store&store, int rank) { expect_exchange(store, rank, 3); });
         const int rank : {0, 1})
      EXPECT_THAT(outcomes[static_cast<std::size_t>(rank)],
                  AllOf(StartsWith("lost: rank 2 is lost: "), HasSubstr(reason)));
  }
}

TEST(Store, RefusedRanksSayWhyAndRankZeroRemembers) {
  Store host(place(0, 2), settings(500ms));
  StoreSettings other = settings();
  other.token[0] = std::byte{99};
  Store stray(place(1, 2, host.port()), other);
  EXPECT_EQ(outcome([&] { (void)stray.exchange({}); }),
            fmt::format("error: rank 0 at 127.0.0.1:{} refused rank 1 of 2: its token is not this job's; all ranks "
                        "must have the same TESSERA_TOKEN",
                        host.port()));
  EXPECT_THAT(outcome([&] { (void)host.exchange({}); }),
              AllOf(HasSubstr("rank 1 never came"), HasSubstr("connections refused: 1, the last from 127.0.0.1:"),
                    HasSubstr("its token is not this job's")));
}

TEST(Store, TwoProcessesWithOneRankAreTold) {
  Store host(place(0, 2), settings());
  expect_all_well(join(host, 2, 1, 1, settings(), [&](Store& store, int rank) {
    expect_exchange(store, rank, 2);
    if (rank == 1) {
      Store twin(place(1, 2, host.port()), settings());
      EXPECT_THAT(outcome([&] { (void)twin.exchange({}); }), HasSubstr("two processes have the same rank"));
    }
    expect_exchange(store, rank, 2, 2);
  }));
}

TEST(Store, GoodbyeIsNoLoss) {
  StoreSettings how = settings();
  how.beat = 20ms;
  std::atomic<int> losses{0};
  const auto count = [&](const std::string&) { ++losses; };
  for (const bool host_leaves : {true, false}) {
    auto host = std::make_unique<Store>(place(0, 3), how, count);
    auto one = std::make_unique<Store>(place(1, 3, host->port()), how, count);
    auto two = std::make_unique<Store>(place(2, 3, host->port()), how, count);
    std::thread first([&] { expect_exchange(*one, 1, 3); }), second([&] { expect_exchange(*two, 2, 3); });
    expect_exchange(*host, 0, 3);
    first.join();
    second.join();
    (host_leaves ? host : one).reset();
    std::this_thread::sleep_for(300ms);
    EXPECT_EQ(losses, 0) << "somebody took a goodbye for a loss";
    const std::string why = host_leaves ? "lost: rank 0 has said goodbye" : "lost: exchange 2: rank 1 has said goodbye";
    EXPECT_EQ(outcome([&] { (void)two->exchange({}); }), why);
  }
}

TEST(Store, LeavingIsQuick) {
  const auto start = Clock::now();
  for (int i = 0; i < 20; ++i)
    expect_all_well(run_ranks(4, [](Store& store, int rank) { expect_exchange(store, rank, 4); }));
  {
    Store never_met(place(0, 2), settings());
    Store without_host(place(1, 2, 1), settings());
  }
  EXPECT_LT(seconds_since(start), 3);
}

TEST(Store, AnExceptionInOneRankReachesAll) {
  for (const int thrower : {0, 2}) {
    const auto start = Clock::now();
    std::mutex mutex;
    std::map<int, std::vector<std::string>> heard;
    const auto listen = [&](int rank) {
      return [&, rank](const std::string& why) {
        const std::lock_guard lock(mutex);
        heard[rank].push_back(why);
      };
    };
    std::promise<int> port;
    const auto where = port.get_future().share();
    std::vector<std::string> outcomes(3);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 3; ++rank)
      threads.emplace_back([&, rank] {
        outcomes[static_cast<std::size_t>(rank)] = outcome([&] {
          Store store(place(rank, 3, rank == 0 ? 0 : where.get()), settings(), listen(rank));
          if (rank == 0) port.set_value(store.port());
          expect_exchange(store, rank, 3);
          if (rank == thrower) throw std::runtime_error("the loss is not finite");
          expect_exchange(store, rank, 3);
        });
      });
    for (std::thread& thread : threads) thread.join();
    const std::string why = fmt::format("rank {} gave up: it ended with an exception", thrower);
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(outcomes[static_cast<std::size_t>(rank)],
                rank == thrower ? "error: the loss is not finite" : "lost: " + why);
      EXPECT_EQ(heard[rank], rank == thrower ? std::vector<std::string>{} : std::vector{why});
    }
    EXPECT_LT(seconds_since(start), 2);
  }
}

TEST(Store, AbortReachesCallsThatWait) {
  for (const int aborter : {0, 1}) {
    const auto start = Clock::now();
    const auto outcomes = run_ranks(3, [&](Store& store, int rank) {
      expect_exchange(store, rank, 3);
      if (rank == 2) std::this_thread::sleep_for(300ms);
      std::thread other;
      if (rank == aborter)
        other = std::thread([&] {
          std::this_thread::sleep_for(50ms);
          store.abort("the disk\nis full");
        });
      const std::string first = outcome([&] { (void)store.exchange({}); });
      const std::string second = outcome([&] { (void)store.exchange({}); });
      if (other.joinable()) other.join();
      EXPECT_EQ(second, first) << "a call after the failure";
      throw std::runtime_error(first);
    });
    for (int rank = 0; rank < 3; ++rank)
      EXPECT_EQ(outcomes[static_cast<std::size_t>(rank)],
                fmt::format("error: lost: rank {} gave up: the disk{}is full", aborter, rank == aborter ? '\n' : '?'));
    EXPECT_LT(seconds_since(start), 2);
  }
}

// A rank in a process of its own, forked from a program that has no other threads; it writes lines to us.
class Process {
 public:
  template <class Run>
  explicit Process(Run&& run) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("pipe failed");
    from_ = comm::detail::Descriptor(ends[0]);
    const comm::detail::Descriptor to(ends[1]);
    std::fflush(stdout);
    process_ = ::fork();
    if (process_ != 0) return;
    const auto say = [&](const std::string& line) {
      const std::string text = line + "\n";
      if (::write(to.get(), text.data(), text.size()) < 0) ::_exit(3);
    };
    try {
      run(say);
    } catch (const std::exception& error) {
      say(error.what());
    }
    ::_exit(0);
  }
  Process(const Process&) = delete;
  ~Process() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }

  void send(int signal) const { ::kill(process_, signal); }
  // Without its newline; ends after 10 s.
  [[nodiscard]] std::string line() const {
    std::string text;
    for (char letter = 0;;) {
      pollfd ask{from_.get(), POLLIN, 0};
      if (::poll(&ask, 1, 10'000) <= 0) return text + "(nothing for 10 s)";
      if (::read(from_.get(), &letter, 1) <= 0) return text + "(the process ended)";
      if (letter == '\n') return text;
      text += letter;
    }
  }

 private:
  comm::detail::Descriptor from_;
  pid_t process_;
};

// What ranks 0 to 2 hear, in processes of their own, after `victim` has got the signal: its own place is empty.
std::vector<std::string> strike(int victim, int signal, double& seconds) {
  std::vector<std::unique_ptr<Process>> ranks;
  int port = 0;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.push_back(std::make_unique<Process>([&](const auto& say) {
      StoreSettings how = settings();
      how.beat = 100ms;
      std::promise<std::string> loss;
      Store store(place(rank, 3, port), how, [&](const std::string& why) { loss.set_value(why); });
      if (rank == 0) say(std::to_string(store.port()));
      expect_exchange(store, rank, 3);
      say("met");
      say(loss.get_future().get());
    }));
    if (rank == 0) port = std::stoi(ranks[0]->line());
  }
  for (const auto& rank : ranks) EXPECT_EQ(rank->line(), "met");
  const auto start = Clock::now();
  ranks[static_cast<std::size_t>(victim)]->send(signal);
  std::vector<std::string> heard(3);
  for (int rank = 0; rank < 3; ++rank)
    if (const auto at = static_cast<std::size_t>(rank); rank != victim) heard[at] = ranks[at]->line();
  seconds = seconds_since(start);
  return heard;
}

TEST(StoreProcesses, TooFewDescriptorsAreALossOnlyIfRanksNeedThem) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "UndefinedBehaviorSanitizer needs descriptors to look at an object's type";
#endif
  const Process host([](const auto& say) {
    Store store(place(0, 3), settings());
    const auto next = static_cast<rlim_t>(comm::detail::Descriptor(::dup(0)).get());
    const rlimit one_more{next + 1, next + 1};
    ::setrlimit(RLIMIT_NOFILE, &one_more);
    say(std::to_string(store.port()));
    say(outcome([&] { (void)store.exchange({}); }));
  });
  const int port = std::stoi(host.line());
  const Stranger first(port), second(port);
  Store one(place(1, 3, port), settings());
  std::thread waits([&] { EXPECT_THAT(outcome([&] { (void)one.exchange({}); }), HasSubstr("raise `ulimit -n`")); });
  std::this_thread::sleep_for(100ms);
  Store two(place(2, 3, port), settings());
  EXPECT_EQ(host.line(), "lost: rank 0 cannot take the connections of 3 ranks: Too many open files; raise `ulimit -n`");
  waits.join();
}

// Beats are 0.1 s here: five of them, and as long again for a machine that is busy.
TEST(StoreProcesses, AKilledRankIsNamedByAllOthers) {
  double seconds = 0;
  const auto heard = strike(1, SIGKILL, seconds);
  for (const int rank : {0, 2})
    EXPECT_THAT(heard[static_cast<std::size_t>(rank)],
                AllOf(StartsWith("rank 1 is lost: its connection from 127.0.0.1:"),
                      testing::MatchesRegex(".*(was closed|broke: .*)")));
  EXPECT_LT(seconds, 1);
}

TEST(StoreProcesses, AStoppedRankIsNamedByAllOthers) {
  double seconds = 0;
  const auto heard = strike(2, SIGSTOP, seconds);
  for (const int rank : {0, 1})
    EXPECT_THAT(heard[static_cast<std::size_t>(rank)],
                AllOf(StartsWith("rank 2 is lost: no sign of life from 127.0.0.1:"), testing::EndsWith(" for 0.5 s")));
  EXPECT_GT(seconds, 0.3);
  EXPECT_LT(seconds, 1.5);
}

TEST(StoreProcesses, AllNoticeThatRankZeroWasKilled) {
  double seconds = 0;
  const auto heard = strike(0, SIGKILL, seconds);
  for (const int rank : {1, 2})
    EXPECT_THAT(heard[static_cast<std::size_t>(rank)], StartsWith("rank 0 is lost: its connection at 127.0.0.1:"));
  EXPECT_LT(seconds, 1);
}

TEST(StoreProcesses, AllNoticeThatRankZeroWasStopped) {
  double seconds = 0;
  const auto heard = strike(0, SIGSTOP, seconds);
  for (const int rank : {1, 2})
    EXPECT_THAT(heard[static_cast<std::size_t>(rank)],
                AllOf(StartsWith("rank 0 is lost: no sign of life from 127.0.0.1:"), testing::EndsWith(" for 0.5 s")));
  EXPECT_LT(seconds, 1.5);
}

}  // namespace
}  // namespace tessera
