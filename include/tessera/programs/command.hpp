// Helpers for the command lines of programs. Needs CLI11 (tessera::programs).
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// The last value of a repeated flag counts, so that flags can be appended to a command.
inline void set_up(CLI::App& app) {
  app.option_defaults()->always_capture_default()->take_last();
}

// Reads the command line. False: --help was asked for, and answered. Throws Error that names the flag.
inline bool parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::Success& wish) {
    app.exit(wish);
    return false;
  } catch (const CLI::ParseError& problem) {
    fail("{} (--help lists the flags)", problem.what());
  }
}

namespace detail {

// Opens /dev/null in place of standard streams that are closed: a file of the program would get their numbers, and be
// filled with messages.
inline void open_standard_streams() noexcept {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
}

// Needs no memory, and does not throw.
inline void complain(const std::string& name, const char* problem) noexcept {
  static_cast<void>(std::fprintf(stderr, "%s: %s\n", name.c_str(), problem));
}

}  // namespace detail

// Runs a program: an exception becomes one sentence on standard error and the exit code that tessera::exit_code
// explains. `name` may change while the program runs. Calls that write into a pipe that nobody reads, or a file that
// gets too large, fail, and no signal ends the program.
template <class Program>
int guarded(const std::string& name, Program&& program) noexcept {
  detail::open_standard_streams();
  for (const int signal : {SIGPIPE, SIGXFSZ}) ::signal(signal, SIG_IGN);
  try {
    return program();
  } catch (const Error& problem) {
    detail::complain(name, problem.what());
    return problem.exit_code();
  } catch (const std::bad_alloc&) {
    detail::complain(name, "not enough memory; a smaller batch, or fewer threads and workers, need less");
    return exit_code::failed;
  } catch (const std::exception& problem) {
    detail::complain(name, problem.what());
    return exit_code::failed;
  }
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
