#include "tessera/train/signals.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace tessera::test {
namespace {

// What becomes of a process that gets these signals one after the other: the number of the first that is remembered, or
// the negative number of the one that ends it.
[[nodiscard]] int outcome(std::initializer_list<int> numbers, int ignored = 0) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (ignored != 0) std::signal(ignored, SIG_IGN);
    const StopSignals signals;
    for (const int number : numbers) ::raise(number);
    ::_exit(StopSignals::caught());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(StopSignals, RemembersTheFirst) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU}) EXPECT_EQ(outcome({number}), number);
  EXPECT_EQ(outcome({SIGUSR1, SIGTERM}), SIGUSR1);
  EXPECT_EQ(outcome({}), 0);
}

// coreutils' timeout sends SIGTERM twice, a shell that ends SIGHUP after the terminal's, the kernel SIGXCPU each
// second.
TEST(StopSignals, MayComeAgain) {
  for (const int number : {SIGTERM, SIGHUP, SIGUSR1, SIGXCPU}) EXPECT_EQ(outcome({number, number, number}), number);
  EXPECT_EQ(outcome({SIGINT, SIGHUP}), SIGINT);
}

TEST(StopSignals, EndTheProgramAtOnceForSomebodyAtTheKeyboard) {
  EXPECT_EQ(outcome({SIGINT, SIGINT}), -SIGINT);
  EXPECT_EQ(outcome({SIGTERM, SIGINT}), -SIGINT);
  EXPECT_EQ(outcome({SIGINT, SIGTERM}), -SIGTERM);
}

// As nohup and background jobs of scripts start programs.
TEST(StopSignals, StayIgnored) {
  EXPECT_EQ(outcome({SIGHUP}, SIGHUP), 0);
  EXPECT_EQ(outcome({SIGINT, SIGINT}, SIGINT), 0);
  EXPECT_EQ(outcome({SIGTERM, SIGINT, SIGINT}, SIGINT), SIGTERM);
}

TEST(StopSignals, LeaveWhatWasBefore) {
  std::signal(SIGUSR1, SIG_IGN);
  { const StopSignals signals; }
  EXPECT_EQ(std::signal(SIGUSR1, SIG_DFL), SIG_IGN);
}

}  // namespace
}  // namespace tessera::test
