// Whole training steps, and the matrix product that bounds them, in one program. items_per_second is images (of two
// views each); `GFLOP/s` counts 8 forwards per image and step: two views, each forward and twice that backward in the
// student, and forward in the momentum encoder.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <vector>

#include "tessera/tessera.hpp"

namespace {

namespace ts = tessera;
using Frozen = ts::vit::policies<ts::embed::FrozenPatches>;
using Tiny = ts::ssl::MoCoV3<ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, Frozen>, ts::ssl::Projector<512, 128>,
                             ts::ssl::Predictor<512, 128>>;
using Small = ts::ssl::MoCoV3<ts::vit::Small<ts::image<224>, ts::patch<16>, Frozen>>;
using Backend = ts::cpu::Backend<float>;

// Multiply-adds of one forward of one view (spec 2.9), and of the heads.
template <class Method>
constexpr double forward_flops() {
  using Encoder = typename Method::Encoder;
  constexpr double tokens = Encoder::tokens, width = Encoder::width;
  double sum = Encoder::patches * static_cast<double>(Encoder::in) / Encoder::patches * width +
               Encoder::depth * (12 * width * width * tokens + 2 * tokens * tokens * width);
  for (const ts::Entry& entry : ts::Layout<Method>::entries)
    if (entry.name.view().find("head.") != entry.name.view().npos && entry.shape.rank == 2)
      sum += static_cast<double>(entry.size());
  return 2 * sum;
}

void matrix_product(benchmark::State& state) {
  Backend backend(2);
  constexpr int in = 384, out = 1536;
  constexpr ts::index rows = 6304;
  std::vector<float> x(rows * in, 0.5f), w(in * out, 0.25f), y(rows * out);
  static_cast<void>(backend.arena().take<float>(1));
  backend.arena().commit();
  for (auto _ : state)
    linear_forward(backend, ts::Rows<const float, in>{x.data(), rows}, static_cast<const float*>(w.data()),
                   static_cast<const float*>(nullptr), ts::Rows<const float, out>{},
                   ts::Rows<float, out>{y.data(), rows});
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * in * out * static_cast<double>(rows), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(matrix_product)->UseRealTime()->MinTime(2)->Unit(benchmark::kMillisecond);

template <class Method>
void step(benchmark::State& state) {
  const ts::index batch = state.range(0);
  Backend backend(2);
  ts::comm::Serial communicator;
  ts::Trainer<Method, ts::optim::AdamW, Backend, ts::comm::Serial> trainer(backend, communicator, {}, batch, 1);
  std::vector<float> images(static_cast<std::size_t>(2 * batch * Method::in));
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  for (auto _ : state) trainer.step({images.data(), 2 * batch}, {1e-4, {}});
  const double flops = 8 * forward_flops<Method>() * static_cast<double>(batch);
  state.SetItemsProcessed(state.iterations() * batch);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  state.counters["planned_MB"] = static_cast<double>(trainer.activation_bytes() + trainer.parameter_bytes()) / 1e6;
  state.counters["peak_MB"] = static_cast<double>(usage.ru_maxrss) / 1e3;
}
BENCHMARK(step<Tiny>)->Name("step_vit_tiny")->Arg(256)->UseRealTime()->MinTime(6)->Unit(benchmark::kMillisecond);
BENCHMARK(step<Small>)->Name("step_vit_small_16")->Arg(16)->UseRealTime()->MinTime(15)->Unit(benchmark::kMillisecond);

}  // namespace
