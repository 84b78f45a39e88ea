#include "tessera/train/callbacks/progress.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <string>

namespace tessera::test {
namespace {

// Standard output is another descriptor while it lives.
class OutputTo {
 public:
  explicit OutputTo(int descriptor) : before_(::dup(STDOUT_FILENO)) {
    std::fflush(stdout);
    ::dup2(descriptor, STDOUT_FILENO);
  }
  OutputTo(const OutputTo&) = delete;
  OutputTo& operator=(const OutputTo&) = delete;
  ~OutputTo() {
    std::fflush(stdout);
    ::dup2(before_, STDOUT_FILENO);
    ::close(before_);
  }

 private:
  int before_;
};

// A terminal with 20 columns; what is written to it is read from `seen`.
class Terminal {
 public:
  Terminal() : seen_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    ::grantpt(seen_);
    ::unlockpt(seen_);
    shown_ = ::open(::ptsname(seen_), O_RDWR | O_NOCTTY);
    const winsize size{.ws_row = 10, .ws_col = 20, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(shown_, TIOCSWINSZ, &size);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    ::close(shown_);
    ::close(seen_);
  }

  // What a line of progress, and one that stays, look like.
  [[nodiscard]] std::string show(const std::string& line) const {
    {
      const OutputTo here(shown_);
      Progress progress;
      progress.show(line);
      progress.keep("kept");
    }
    std::string text;  // the terminal hands it on in parts
    for (std::array<char, 1000> bytes{}; !text.ends_with("kept\r\n");) {
      const ssize_t count = ::read(seen_, bytes.data(), bytes.size());
      if (count <= 0) break;
      text.append(bytes.data(), static_cast<std::size_t>(count));
    }
    return text;
  }

 private:
  int seen_, shown_ = -1;
};

TEST(Progress, FitsTheTerminal) {
  const Terminal terminal;
  ::setenv("TERM", "xterm", 1);
  EXPECT_EQ(terminal.show("short"), "\r\033[Kshort\r\033[Kkept\r\n");
  EXPECT_EQ(terminal.show("0123456789012345678901234"), "\r\033[K0123456789012345678\r\033[Kkept\r\n");
}

TEST(Progress, IsPlainLinesOnADumbTerminal) {
  const Terminal terminal;
  const std::string line = "0123456789012345678901234";
  ::setenv("TERM", "dumb", 1);
  EXPECT_EQ(terminal.show(line), line + "\r\nkept\r\n");
  ::unsetenv("TERM");
  EXPECT_EQ(terminal.show(line), line + "\r\nkept\r\n");
}

TEST(Progress, KnowsThatNobodyReads) {
  std::signal(SIGPIPE, SIG_IGN);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  bool before = true, after = false;
  {
    const OutputTo here(pipe[1]);
    Progress progress;
    progress.show("line");
    before = progress.closed();
    ::close(pipe[0]);
    progress.show("line");
    progress.keep("line");
    after = progress.closed();
  }
  ::close(pipe[1]);
  std::signal(SIGPIPE, SIG_DFL);
  EXPECT_FALSE(before);
  EXPECT_TRUE(after);
}

TEST(Progress, GoesOnIfTheDiskIsFull) {
  const int full = ::open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  bool closed = true;
  {
    const OutputTo here(full);
    Progress progress;
    progress.show("line");
    progress.keep("line");
    closed = progress.closed();
  }
  ::close(full);
  EXPECT_FALSE(closed);
}

}  // namespace
}  // namespace tessera::test
