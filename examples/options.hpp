// What the example programs share: model names, data, errors.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "tessera/data/idx.hpp"
#include "tessera/tessera.hpp"

namespace examples {

namespace ts = tessera;

// One way to train: a name, and the types it stands for. Add a line to `for_arch` to train your own.
template <class Method_>
struct Arch {
  using Method = Method_;
};

inline constexpr const char* archs = "vit_tiny (28 x 28 grey), vit_small and vit_base (224 x 224 RGB)";

// Calls body(Arch<Method>{}) with the types that --arch, --stop-grad-conv1 and the head widths name; returns whether
// there is such an arch.
template <class Body>
bool for_arch(const std::string& name, bool stop_grad_conv1, int dim, int mlp_dim, Body&& body) {
  using Learned = ts::vit::policies<ts::embed::Patches>;
  using Frozen = ts::vit::policies<ts::embed::FrozenPatches>;
  const auto widths = [&](int expected_mlp, int expected_dim) {
    if (dim != expected_dim || mlp_dim != expected_mlp)
      ts::fail(
          "--moco-dim {} --moco-mlp-dim {}: {} is compiled with {} and {}; widths are types, changed in "
          "examples/options.hpp",
          dim, mlp_dim, name, expected_dim, expected_mlp);
  };
  const auto either = [&]<class LearnedEncoder, class FrozenEncoder, int mlp, int out>() {
    widths(mlp, out);
    using Projector = ts::heads::Mlp<3, mlp, out>;
    using Predictor = ts::heads::Mlp<2, mlp, out>;
    if (stop_grad_conv1)
      body(Arch<ts::objectives::MoCoV3<FrozenEncoder, Projector, Predictor>>{});
    else
      body(Arch<ts::objectives::MoCoV3<LearnedEncoder, Projector, Predictor>>{});
  };
  using Grey28 = ts::image<28, 1>;
  using Rgb224 = ts::image<224, 3>;
  if (name == "vit_tiny")
    either.template
    operator()<ts::vit::Tiny<Grey28, ts::patch<7>, Learned>, ts::vit::Tiny<Grey28, ts::patch<7>, Frozen>, 512, 128>();
  else if (name == "vit_small")
    either.template operator()<ts::vit::Small<Rgb224, ts::patch<16>, Learned>,
                               ts::vit::Small<Rgb224, ts::patch<16>, Frozen>, 4096, 256>();
  else if (name == "vit_base")
    either.template operator()<ts::vit::Base<Rgb224, ts::patch<16>, Learned>,
                               ts::vit::Base<Rgb224, ts::patch<16>, Frozen>, 4096, 256>();
  else
    return false;
  return true;
}

// Flags of a program; of a flag given twice the last counts, so that a command can be continued.
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
    ts::fail("{} (--help lists the flags)", problem.what());
  }
}

// Runs a program: what it throws becomes one sentence on standard error and the exit code that tessera::exit_code
// explains.
template <class Program>
int guarded(const std::string& name, Program&& program) {
  try {
    return program();
  } catch (const ts::Error& problem) {
    fmt::print(stderr, "{}: {}\n", name, problem.what());
    return problem.exit_code();
  } catch (const std::exception& problem) {
    fmt::print(stderr, "{}: {}\n", name, problem.what());
    return ts::exit_code::failed;
  }
}

}  // namespace examples
