#include "tessera/comm/fingerprint.hpp"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tessera/comm/rendezvous/rendezvous.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"

namespace tessera {
namespace {

using Facts = std::vector<comm::Fact>;

// What each rank says when ranks have these facts: empty where they agree.
std::vector<std::string> compare(const std::vector<Facts>& facts) {
  std::vector<std::string> messages(facts.size());
  comm::run_threads(static_cast<int>(facts.size()), [&](comm::Threads& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    try {
      comm::expect_alike(communicator, facts[rank]);
    } catch (const comm::RankLost&) {
      throw;
    } catch (const Error& error) {
      messages[rank] = error.what();
    }
  });
  return messages;
}

const Facts job = {{"model", "vit-s/16"}, {"ranks", "4"}, {"recipe", "batch 128"}};

TEST(Fingerprint, EqualFactsPass) {
  for (const std::size_t ranks : {1U, 2U, 5U})
    for (const std::string& message : compare(std::vector<Facts>(ranks, job))) EXPECT_EQ(message, "");
  EXPECT_EQ(compare({{}, {}}), std::vector<std::string>(2));
  comm::Serial alone;
  EXPECT_NO_THROW(comm::expect_alike(alone, job));
}

TEST(Fingerprint, EveryRankNamesTheFactBothRanksAndBothValues) {
  std::vector<Facts> facts(4, job);
  facts[2][2].value = "batch 64";
  facts[3][0].value = "vit-b/16";
  for (const std::string& message : compare(facts))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has recipe 'batch 128', rank 2 has recipe 'batch 64'");
}

TEST(Fingerprint, RankZeroCanBeTheOneThatDiffers) {
  std::vector<Facts> facts(3, job);
  facts[0][1].value = "8";
  for (const std::string& message : compare(facts))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has ranks '8', rank 1 has ranks '4'");
}

TEST(Fingerprint, MissingAndRenamedFactsAreNamed) {
  Facts fewer = job, renamed = job;
  fewer.pop_back();
  renamed[1].name = "world";
  for (const std::string& message : compare({job, fewer}))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has recipe 'batch 128', rank 1 has no such fact");
  for (const std::string& message : compare({fewer, job}))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has no such fact, rank 1 has recipe 'batch 128'");
  for (const std::string& message : compare({job, renamed}))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has ranks '4', rank 1 has world '4'");
}

TEST(Fingerprint, NameAndValueDoNotRunTogether) {
  for (const std::string& message : compare({{{"ab", "c"}}, {{"a", "bc"}}}))
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has ab 'c', rank 1 has a 'bc'");
}

TEST(Fingerprint, LongValuesAreCut) {
  for (const std::string& message :
       compare({{{"recipe", std::string(100'000, 'x')}}, {{"recipe", std::string(100'000, 'y')}}})) {
    EXPECT_LT(message.size(), 2100U);
    EXPECT_NE(message.find("rank 1 has recipe 'yyy"), std::string::npos) << message;
  }
}

TEST(Fingerprint, ComparesThroughAStore) {
  Facts other = job;
  other[0].value = "vit-b/16";
  comm::StoreSettings settings;
  settings.deadline = std::chrono::seconds(10);
  comm::Store host({0, 2, 0, "127.0.0.1", 0, "the test"}, settings);
  comm::Store connection({1, 2, 1, "127.0.0.1", host.port(), "the test"}, settings);
  std::string messages[2];
  const auto ask = [](comm::Store& store, const Facts& facts, std::string& message) {
    try {
      comm::expect_alike(store, job);
      comm::expect_alike(store, facts);
    } catch (const Error& error) {
      message = error.what();
    }
  };
  std::thread thread([&] { ask(connection, other, messages[1]); });
  ask(host, job, messages[0]);
  thread.join();
  for (const std::string& message : messages)
    EXPECT_EQ(message, "ranks do not run the same job: rank 0 has model 'vit-s/16', rank 1 has model 'vit-b/16'");
}

}  // namespace
}  // namespace tessera
