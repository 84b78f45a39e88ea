// Whole training steps, and the matrix products that bound them, in one program. items_per_second is images (of two
// views each); `GFLOP/s` counts the multiply-adds of matrix products that a step makes, twice.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <vector>

#include "../examples/relu_attention.hpp"
#include "objective.hpp"
#include "tessera/tessera.hpp"

namespace {

namespace ts = tessera;
using Frozen = ts::vit::policies<ts::embed::FrozenPatches>;
using Tiny = ts::objectives::MoCoV3<ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, Frozen>, ts::heads::Mlp<3, 512, 128>,
                                    ts::heads::Mlp<2, 512, 128>>;
using ReluTiny = ts::objectives::MoCoV3<
    ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, ts::vit::policies<ts::embed::FrozenPatches, examples::ReluAttention>>,
    ts::heads::Mlp<3, 512, 128>, ts::heads::Mlp<2, 512, 128>>;
using Small = ts::objectives::MoCoV3<ts::vit::Small<ts::image<224>, ts::patch<16>, Frozen>>;

// Multiply-adds that one image costs in a step: two views, each forward and twice that backward in the student, and
// forward in the momentum encoder. A frozen projection has no backward, and a class token alone needs a part of the
// last block.
template <class Objective>
constexpr double multiply_adds() {
  using Encoder = typename Objective::Encoder;
  constexpr double tokens = Encoder::tokens, width = Encoder::width, last_tokens = Encoder::last_tokens;
  const double blocks = Encoder::depth * (3 * width * width * tokens + 2 * tokens * tokens * width) +
                        9 * width * width * ((Encoder::depth - 1) * tokens + last_tokens);
  double projector = 0, predictor = 0;
  for (const ts::Entry& entry : bench::OnlineLayout<Objective>::entries) {
    if (entry.shape.rank != 2) continue;
    if (entry.name.view().starts_with("base_encoder.head.")) projector += static_cast<double>(entry.size());
    if (entry.name.view().starts_with("predictor.")) predictor += static_cast<double>(entry.size());
  }
  const double patches = static_cast<double>(Encoder::in) * width;
  return 2 * (2 * patches + 4 * (blocks + projector) + 3 * predictor);
}

// y = x W^T by a backend with that policy. The largest of these rates is the peak that a step is measured against.
template <class Scalar, class Matmul, int in, int out>
void matrix_product(benchmark::State& state) {
  ts::cpu::Backend<Scalar, Matmul> backend(2);
  const ts::index rows = state.range(0);
  std::vector<Scalar> x(static_cast<std::size_t>(rows * in), Scalar(0.5f)), w(in * out, Scalar(0.25f)),
      y(static_cast<std::size_t>(rows * out));
  const ts::Parameter<Scalar> weight = [&]() -> ts::Parameter<Scalar> {
    if constexpr (std::is_pointer_v<ts::Parameter<Scalar>>)
      return w.data();
    else
      return {nullptr, w.data()};
  }();
  const auto multiply = [&] {
    linear_forward(backend, ts::Rows<const Scalar, in>{x.data(), rows}, weight, nullptr, ts::Rows<const Scalar, out>{},
                   ts::Rows<Scalar, out>{y.data(), rows});
  };
  multiply();  // plans
  backend.arena().commit();
  for (auto _ : state) multiply();
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * in * out * static_cast<double>(rows), benchmark::Counter::kIsIterationInvariantRate);
}

template <class Scalar, class Matmul>
void products_by(const char* name) {
  const auto add = [name](const char* shape, auto product, int rows) {
    benchmark::RegisterBenchmark(fmt::format("product_{}_{}", name, shape).c_str(), product)
        ->Arg(rows)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("384x1536", matrix_product<Scalar, Matmul, 384, 1536>, 6304);
  add("1536x384", matrix_product<Scalar, Matmul, 1536, 384>, 6304);
  add("1024x1024", matrix_product<Scalar, Matmul, 1024, 1024>, 4096);
}

const bool products_added = [] {
  products_by<float, ts::cpu::PackedMatmul>("packed");
  products_by<ts::bf16, ts::cpu::PackedMatmul>("packed_bf16");
  products_by<float, ts::cpu::EigenMatmul>("Eigen");
#if TESSERA_HAS_CBLAS
  products_by<float, ts::cpu::CblasMatmul>("CBLAS");
#endif
#if TESSERA_HAS_ONEDNN
  products_by<float, ts::cpu::OneDnnMatmul>("oneDNN");
#endif
  return true;
}();

template <class Scalar, class Objective>
void step(benchmark::State& state) {
  using Backend = ts::cpu::Backend<Scalar>;
  const ts::index batch = state.range(0);
  Backend backend(2);
  ts::comm::Serial communicator;
  ts::Trainer<Objective, ts::Device<Backend>> trainer(backend, communicator, ts::optim::AdamW{},
                                                      {.batch = batch, .seed = 1});
  std::vector<Scalar> images(static_cast<std::size_t>(2 * batch * Objective::Encoder::in));
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (Scalar& value : images) value = Scalar(random.uniform(-1, 1));
  const auto views = bench::batch_of<Objective>(static_cast<const Scalar*>(images.data()), batch);
  for (auto _ : state) trainer.step(views, {.learning_rate = 1e-4});
  const double flops = 2 * multiply_adds<Objective>() * static_cast<double>(batch);
  state.SetItemsProcessed(state.iterations() * batch);
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  state.counters["planned_MB"] = static_cast<double>(trainer.activation_bytes() + trainer.parameter_bytes()) / 1e6;
  state.counters["peak_MB"] = static_cast<double>(usage.ru_maxrss) / 1e3;
}

template <class Scalar, class Objective>
void add_step(const char* name, int batch) {
  benchmark::RegisterBenchmark(name, step<Scalar, Objective>)->Arg(batch)->UseRealTime()->Unit(benchmark::kMillisecond);
}
const bool steps_added = [] {
  add_step<float, Tiny>("step_vit_tiny", 256);
  add_step<float, ReluTiny>("step_relu_tiny", 256);
  add_step<float, Small>("step_vit_small_16", 16);
  add_step<ts::bf16, Tiny>("step_vit_tiny_bf16", 256);
  add_step<ts::bf16, Small>("step_vit_small_16_bf16", 16);
  return true;
}();

}  // namespace
