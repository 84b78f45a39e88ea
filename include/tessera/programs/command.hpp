// Helpers for the command lines of programs. Needs CLI11 (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
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

// Runs a program: an exception becomes one sentence on standard error and the exit code that tessera::exit_code
// explains. `name` may change while the program runs.
template <class Program>
int guarded(const std::string& name, Program&& program) {
  try {
    return program();
  } catch (const Error& problem) {
    fmt::print(stderr, "{}: {}\n", name, problem.what());
    return problem.exit_code();
  } catch (const std::exception& problem) {
    fmt::print(stderr, "{}: {}\n", name, problem.what());
    return exit_code::failed;
  }
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
