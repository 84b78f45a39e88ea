// What the benchmarks of the CUDA backend share: operands of random values, times by the device's clock, the program.
#pragma once

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "tessera/cuda/cuda.hpp"

namespace bench {

namespace ts = tessera;
using ts::bf16;
using ts::index;
using Backend = ts::cuda::Backend<bf16>;

// Uniform in (-1, 1): a product of zeros is faster than any that training makes.
template <class Scalar>
__global__ void random_kernel(index count, std::uint32_t seed, Scalar* values) {
  const index i = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  std::uint32_t bits = static_cast<std::uint32_t>(i) * 0x9E3779B9u + seed * 0x7F4A7C15u;
  bits = (bits ^ (bits >> 16)) * 0x21F0AAADu;
  bits = (bits ^ (bits >> 15)) * 0x735A2D97u;
  bits ^= bits >> 15;
  values[i] = static_cast<Scalar>(static_cast<float>(bits >> 8) * 0x1p-23f - 1 + 0x1p-24f);
}

template <class Scalar>
[[nodiscard]] ts::cuda::Buffer<Scalar> random_values(const Backend& backend, index count) {
  static std::uint32_t seed = 0;
  ts::cuda::Buffer<Scalar> buffer(count);
  random_kernel<<<ts::cuda::blocks_for(count, 256), 256, 0, backend.stream()>>>(count, ++seed, buffer.data());
  ts::cuda::check(cudaGetLastError(), "filling a buffer");
  return buffer;
}

[[nodiscard]] inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// What one call of an operation does. Bytes are the fewest: every input read once and every output written once.
struct Work {
  double bytes = 0, flops = 0, items = 0;
};

// The median time of body, as a step runs it: in planned memory, with chosen products, replayed from a recording,
// `together` calls of it so that the launch of the recording does not count. Becomes the benchmark's one iteration.
template <class Body>
void measure(benchmark::State& state, Backend& backend, const Work& work, Body&& body) {
  constexpr int together = 10, replays = 15;
  body();
  backend.arena().commit();
  backend.choose_products(body);
  Backend::Recording recording;
  const ts::cuda::Event start, end;
  std::vector<double> seconds;
  for (int i = -2; i < replays; ++i) {
    start.record(backend.stream());
    backend.replay(recording, [&] {
      for (int call = 0; call < together; ++call) body();
    });
    end.record(backend.stream());
    if (const double time = end.since(start) * 1e-3 / together; i >= 0) seconds.push_back(time);
  }
  const double time = median(seconds);
  for (auto _ : state) state.SetIterationTime(time);
  if (work.bytes > 0) {
    state.counters["bytes"] = work.bytes;
    state.counters["GB/s"] = work.bytes / time * 1e-9;
  }
  if (work.flops > 0) state.counters["TFLOP/s"] = work.flops / time * 1e-12;
  if (work.items > 0) state.counters["items/s"] = work.items / time;
}

// Registers body(state) under a name; what it throws becomes the benchmark's error.
template <class Body>
void add(const std::string& name, Body body) {
  const auto guarded = [body](benchmark::State& state) {
    try {
      body(state);
    } catch (const std::exception& problem) {
      state.SkipWithError(problem.what());
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), guarded)->UseManualTime()->Iterations(1)->Unit(benchmark::kMillisecond);
}

// Runs what was registered, and prints the algorithms of cuBLASLt that were chosen; without a device says so in one
// sentence.
inline int run(int argc, char** argv) {
  try {
    benchmark::AddCustomContext("device", Backend().name());
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    if (benchmark::RunSpecifiedBenchmarks() > 0) fmt::print(stderr, "{}", Backend().products().choices());
    return 0;
  } catch (const ts::Error& problem) {
    fmt::print(stderr, "{}: {}\n", argv[0], problem.what());
    return 1;
  }
}

}  // namespace bench
