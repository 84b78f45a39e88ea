// A whole training step of MoCo v3 on a CUDA device, as a run makes it, for any encoder.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../objective.hpp"
#include "device_bench.hpp"
#include "tessera/tessera.hpp"

namespace bench {

// Every step_*.cpp adds the steps of its models.
void add_small();
void add_base();
void add_large();
void add_huge();

template <class Recompute = ts::recompute::None>
using FrozenPatches = ts::vit::policies<ts::embed::FrozenPatches, Recompute>;

// FLOPs of one image in a step by the model: 8 forwards, for each of two views is queried (1), differentiated (2) and
// encoded by the momentum encoder (1). Multiply-adds of a forward: patches x values of a patch x width; in each block
// 12 width^2 tokens for its linear maps and 2 tokens^2 width for attention; the heads' matrices. Nothing is taken off
// for what is not computed: the frozen projection's gradient, and patches behind the last block's attention.
template <class Objective>
constexpr double model_flops() {
  using Encoder = typename Objective::Encoder;
  constexpr double tokens = Encoder::tokens, width = Encoder::width;
  const double blocks = Encoder::depth * (12 * width * width * tokens + 2 * tokens * tokens * width);
  double heads = 0;
  for (const ts::Entry& entry : OnlineLayout<Objective>::entries) {
    const auto name = entry.name.view();
    if (entry.shape.rank == 2 && (name.starts_with("base_encoder.head.") || name.starts_with("predictor.")))
      heads += static_cast<double>(entry.size());
  }
  return 8 * 2 * (static_cast<double>(Encoder::in) * width + blocks + heads);
}

// At least `least` steps on `batch` images, and up to `most` in two seconds. Throws OutOfMemory if they do not fit.
template <class Objective>
void step(benchmark::State& state, index batch, std::size_t least = 5, std::size_t most = 50) {
  constexpr int warm_up = 3;
  constexpr double enough = 2;  // seconds
  Backend backend;
  ts::comm::Serial communicator;
  const auto pixels = random_values<bf16>(backend, 2 * batch * Objective::Encoder::in);
  const auto images = batch_of<Objective>(static_cast<const bf16*>(pixels.data()), batch);
  backend.wait();
  const index before = backend.free_bytes();
  ts::Trainer<Objective, ts::Device<Backend>> trainer(backend, communicator, ts::optim::AdamW{},
                                                      {.batch = batch, .seed = 1});
  const ts::StepSettings<Objective> settings{.learning_rate = 1e-4};
  const auto one = [&] {
    trainer.start(images, settings);
    return trainer.finish();
  };
  for (int i = 0; i < warm_up; ++i) one();

  std::vector<double> seconds;
  std::array<ts::cuda::Event, 2> marks;
  marks[0].record(backend.stream());
  double loss = 0, total = 0;
  while (seconds.size() < least || (total < enough && seconds.size() < most)) {
    loss = one();
    marks[1].record(backend.stream());
    seconds.push_back(marks[1].since(marks[0]) * 1e-3);
    total += seconds.back();
    std::swap(marks[0], marks[1]);
  }
  const double time = median(seconds), flops = model_flops<Objective>() * static_cast<double>(batch);
  for (auto _ : state) state.SetIterationTime(time);
  state.counters["batch"] = static_cast<double>(batch);
  state.counters["images/s"] = static_cast<double>(batch) / time;
  state.counters["TFLOP/s"] = flops / time * 1e-12;
  state.counters["TFLOP/image"] = model_flops<Objective>() * 1e-12;
  state.counters["planned_bytes"] = static_cast<double>(trainer.activation_bytes() + trainer.parameter_bytes());
  state.counters["peak_bytes"] = static_cast<double>(before - backend.free_bytes());
  state.counters["loss"] = loss;
}

// Batch 256, and three steps on the largest power of two, up to 4096, that fits.
template <class Objective>
void add_steps(const std::string& model) {
  add("step_" + model + "/256", [](benchmark::State& state) { step<Objective>(state, 256); });
  add("step_" + model + "/largest", [](benchmark::State& state) {
    for (index batch = 4096; batch > 2; batch /= 2) {
      try {
        return step<Objective>(state, batch, 3, 3);
      } catch (const ts::OutOfMemory&) {
        // Does not fit.
      }
    }
    step<Objective>(state, 2, 3, 3);
  });
}

template <class Encoder>
using MoCo = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, 4096, 256>, ts::heads::Mlp<2, 4096, 256>>;

}  // namespace bench
