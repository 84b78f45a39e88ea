// Single matrix products on one thread, of the shapes that the backend's tiles have, by every policy that is found.
#include <benchmark/benchmark.h>

#include <vector>

#include "tessera/cpu/matmul.hpp"

namespace {

namespace cpu = tessera::cpu;

// What a product (m x k) (k x n) is in a step: y = x W^T, dx = dy W, dW = dy^T x.
enum Role { forward, input_gradient, weight_gradient };

template <class Matmul>
void product(benchmark::State& state) {
  const auto m = state.range(0), n = state.range(1), k = state.range(2);
  const bool left = state.range(3) == weight_gradient, right = state.range(3) == forward;
  const std::vector<float> a(static_cast<std::size_t>(m * k), 0.5f), b(static_cast<std::size_t>(k * n), 0.25f);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  for (auto _ : state)
    Matmul::multiply(m, n, k, cpu::Operand<float>{a.data(), left ? m : k, left},
                     cpu::Operand<float>{b.data(), right ? k : n, right}, c.data(), n, false);
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(m) * static_cast<double>(n * k),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k", "role"});
  for (const int n : {288, 384}) benchmark->Args({256, n, 96, forward});
  benchmark->Args({256, 96, 384, forward})->Args({256, 768, 384, forward})->Args({256, 384, 1536, forward});
  benchmark->Args({256, 384, 96, input_gradient})->Args({256, 768, 384, input_gradient});
  benchmark->Args({96, 96, 544, weight_gradient})->Args({96, 384, 512, weight_gradient});
}
BENCHMARK(product<cpu::PackedMatmul>)->Name("packed")->Apply(shapes)->UseRealTime();
BENCHMARK(product<cpu::EigenMatmul>)->Name("Eigen")->Apply(shapes)->UseRealTime();
#if TESSERA_HAS_CBLAS
BENCHMARK(product<cpu::CblasMatmul>)->Name("CBLAS")->Apply(shapes)->UseRealTime();
#endif
#if TESSERA_HAS_ONEDNN
BENCHMARK(product<cpu::OneDnnMatmul>)->Name("oneDNN")->Apply(shapes)->UseRealTime();
#endif

}  // namespace
