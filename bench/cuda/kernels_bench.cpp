// Single operations of the CUDA backend at the sizes of ViT-B/16's training step: batch 256, both views stacked. The
// two ceilings that everything is measured against come first.
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../objective.hpp"
#include "device_bench.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/cuda/augment.hpp"
#include "tessera/data/augment.hpp"
#include "tessera/tessera.hpp"

namespace bench {
namespace {

using Encoder = ts::vit::Base<ts::image<224>, ts::patch<16>, ts::vit::policies<ts::embed::FrozenPatches>>;
using Online = OnlineLayout<ts::objectives::MoCoV3<Encoder>>;
constexpr int tokens = Encoder::tokens, patches = Encoder::patches, width = Encoder::width, hidden = 4 * width;
constexpr index images = 512, rows = images * tokens;

template <class Scalar>
using Buffer = ts::cuda::Buffer<Scalar>;

// Operands on the device; they live as long as the benchmark's function.
template <int columns, class Scalar>
[[nodiscard]] ts::Rows<Scalar, columns> all(const Buffer<Scalar>& buffer) {
  return {buffer.data(), buffer.size() / columns};
}
template <int columns, class Scalar>
[[nodiscard]] ts::Rows<const Scalar, columns> input(const Buffer<Scalar>& buffer) {
  return {buffer.data(), buffer.size() / columns};
}
[[nodiscard]] Buffer<bf16> low(const Backend& backend, index count) {
  return random_values<bf16>(backend, count);
}
[[nodiscard]] Buffer<float> full(const Backend& backend, index count) {
  return random_values<float>(backend, count);
}

constexpr double size_of(index values, double bytes_of_each) {
  return static_cast<double>(values) * bytes_of_each;
}

void ceilings() {
  add("ceiling/product_8192", [](benchmark::State& state) {
    constexpr index n = 8192;
    Backend backend;
    const auto left = low(backend, n * n), right = low(backend, n * n), result = low(backend, n * n);
    const ts::cuda::Product<bf16, bf16> product{.rows = n,
                                                .columns = n,
                                                .depth = n,
                                                .left = left.data(),
                                                .left_transposed = false,
                                                .right = right.data(),
                                                .right_transposed = true,
                                                .result = result.data()};
    measure(state, backend, {.flops = 2.0 * n * n * n}, [&] { multiply(backend, product); });
  });
  add("ceiling/copy_2GiB", [](benchmark::State& state) {
    constexpr index count = index{2} << 30;
    Backend backend;
    const auto from = random_values<float>(backend, count / 4), to = random_values<float>(backend, count / 4);
    measure(state, backend, {.bytes = 2.0 * count}, [&] { backend.copy(count / 4, from.data(), to.data()); });
  });
}

void norms() {
  add("layer_norm_forward", [](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * width), y = low(backend, rows * width);
    const auto gain = full(backend, width), bias = full(backend, width), statistics = full(backend, 2 * rows);
    measure(state, backend, {.bytes = size_of(rows * width, 2 * 2) + size_of(2 * rows, 4)}, [&] {
      layer_norm_forward(backend, input<width>(x), gain.data(), bias.data(), 1e-6, all<2>(statistics), all<width>(y));
    });
  });
  add("layer_norm_backward_with_residual", [](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * width), dy = low(backend, rows * width);
    const auto residual = low(backend, rows * width), dx = low(backend, rows * width);
    const auto gain = full(backend, width), statistics = full(backend, 2 * rows);
    const auto d_gain = full(backend, width), d_bias = full(backend, width);
    measure(state, backend, {.bytes = size_of(rows * width, 4 * 2) + size_of(2 * rows, 4)}, [&] {
      layer_norm_backward(backend, input<width>(x), gain.data(), input<2>(statistics), input<width>(dy),
                          input<width>(residual), all<width>(dx), d_gain.data(), d_bias.data());
    });
  });
  // The heads' rows fit in the cache, as they do in a step. The large batch shows what the passes cost in memory.
  constexpr int features = 4096;
  for (const index some : {index{512}, index{16384}}) {
    const std::string suffix = fmt::format("/{}x{}", some, features);
    using Context = ts::Context<Backend, ts::comm::Serial>;
    add("batch_norm_forward" + suffix, [some](benchmark::State& state) {
      Backend backend;
      ts::comm::Serial communicator;
      Context context{backend, communicator, ts::Mode::train, 2};
      const auto x = low(backend, some * features), y = low(backend, some * features);
      const auto gain = full(backend, features), bias = full(backend, features), mean = full(backend, features);
      const Buffer<float> variance(features), batches(1);
      const auto statistics = full(backend, 4 * features);
      measure(state, backend, {.bytes = size_of(some * features, 2 * 2)}, [&] {
        batch_norm_forward(context, input<features>(x), gain.data(), bias.data(), 1e-5, 0.1, mean.data(),
                           variance.data(), batches.data(), all<2 * features>(statistics), all<features>(y));
      });
    });
    add("batch_norm_backward" + suffix, [some](benchmark::State& state) {
      Backend backend;
      ts::comm::Serial communicator;
      Context context{backend, communicator, ts::Mode::train, 2};
      const auto x = low(backend, some * features), dy = low(backend, some * features);
      const auto dx = low(backend, some * features);
      const auto gain = full(backend, features), statistics = full(backend, 4 * features);
      const auto d_gain = full(backend, features), d_bias = full(backend, features);
      measure(state, backend, {.bytes = size_of(some * features, 3 * 2)}, [&] {
        batch_norm_backward(context, input<features>(x), gain.data(), input<2 * features>(statistics),
                            input<features>(dy), ts::Rows<const bf16, features>{}, all<features>(dx), d_gain.data(),
                            d_bias.data());
      });
    });
  }
}

void elements() {
  using Gelu = ts::nn::Gelu;
  add("gelu_forward", [](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * hidden), y = low(backend, rows * hidden);
    measure(state, backend, {.bytes = size_of(rows * hidden, 2 * 2)},
            [&] { activation_forward<Gelu>(backend, input<hidden>(x), all<hidden>(y)); });
  });
  add("gelu_and_bias_gradient", [](benchmark::State& state) {
    namespace detail = ts::cuda::detail;
    Backend backend;
    const auto x = low(backend, rows * hidden), gradient = low(backend, rows * hidden);
    const auto activated = low(backend, rows * hidden);
    ts::cuda::Buffer<float> sums(hidden);
    constexpr int vector = ts::cuda::vector_width<bf16>(hidden);
    const detail::ActivationGradient<vector, Gelu, bf16> values{x.data(), gradient.data(), activated.data()};
    measure(state, backend, {.bytes = size_of(rows * hidden, 4 * 2)},
            [&] { detail::column_sums<hidden, vector>(backend, rows, values, sums.data()); });
  });
}

void tokens_and_patches() {
  add("patchify", [](benchmark::State& state) {
    Backend backend;
    const auto pixels = low(backend, images * Encoder::in), cut = low(backend, images * Encoder::in);
    measure(state, backend, {.bytes = size_of(images * Encoder::in, 2 * 2)},
            [&] { patchify<3, 224, 16>(backend, input<Encoder::in>(pixels), all<768>(cut)); });
  });
  add("assemble_tokens", [](benchmark::State& state) {
    Backend backend;
    const auto embedded = low(backend, images * patches * width), y = low(backend, rows * width);
    const auto class_token = full(backend, width), positions = full(backend, tokens * width);
    measure(state, backend, {.bytes = size_of(images * patches * width + rows * width, 2)}, [&] {
      assemble_tokens<patches, tokens>(backend, input<width>(embedded), class_token.data(), positions.data(),
                                       all<width>(y));
    });
  });
}

void contrasts() {
  constexpr int features = 256;
  constexpr index batch = 4096;
  add("normalize_rows/8192x256", [](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, 2 * batch * features), y = low(backend, 2 * batch * features);
    const auto inverse = full(backend, 2 * batch);
    measure(state, backend, {.bytes = size_of(2 * batch * features, 2 * 2) + size_of(2 * batch, 4)},
            [&] { normalize_rows(backend, input<features>(x), all<features>(y), all<1>(inverse)); });
  });
  // Loss and gradient of one view: two products, and logits that need not leave the cache.
  add("info_nce/4096x4096x256", [](benchmark::State& state) {
    Backend backend;
    const auto q = low(backend, batch * features), k = low(backend, batch * features);
    const auto d_q = low(backend, batch * features);
    const Buffer<double> temperature(1), loss(1);
    constexpr double value = 0.2;
    backend.upload(1, &value, temperature.data());
    measure(state, backend, {.flops = 4.0 * batch * batch * features}, [&] {
      info_nce(backend, input<features>(q), input<features>(k), ts::InfoNce{2, true}, temperature.data(), 0, batch,
               loss.data(), all<features>(d_q));
    });
  });
  // Loss and gradient of all views of 4096 images: three products.
  add("nt_xent/8192x256", [](benchmark::State& state) {
    Backend backend;
    constexpr index views = 2 * batch;
    const auto z = low(backend, views * features), d_z = low(backend, views * features);
    const auto log_sums = full(backend, views);
    const Buffer<double> temperature(1), loss(1);
    constexpr double value = 0.2;
    backend.upload(1, &value, temperature.data());
    measure(state, backend, {.flops = 6.0 * views * views * features}, [&] {
      nt_xent_forward(backend, input<features>(z), temperature.data(), 0, all<1>(log_sums), loss.data());
      nt_xent_backward(backend, input<features>(z), temperature.data(), 0, input<1>(log_sums), all<features>(d_z));
    });
  });
}

// Passes over the parameters of the whole model: of each, masters in float and a copy in bf16.
void updates() {
  constexpr index count = Online::parameters;
  add("adamw_update", [](benchmark::State& state) {
    Backend backend;
    const auto gradient = full(backend, count), weight = full(backend, count);
    const Buffer<float> moment1(count), moment2(count);
    const Buffer<bf16> copy(count);
    const Buffer<double> blocked(1), overflow(1);
    const Buffer<ts::optim::AdamW::Coefficients> coefficients(1);
    const auto values = ts::optim::AdamW{}.coefficients(1e-6, 10);
    backend.upload(1, &values, coefficients.data());
    measure(state, backend, {.bytes = size_of(count, 4 * 4 + 3 * 4 + 2)}, [&] {
      update_elements<ts::optim::AdamW>(
          backend, count, coefficients.data(), ts::optim::Group{}, blocked.data(), overflow.data(), gradient.data(),
          ts::Parameter<bf16>{weight.data(), copy.data()}, std::array{moment1.data(), moment2.data()});
    });
  });
  add("moving_average", [](benchmark::State& state) {
    Backend backend;
    const auto x = full(backend, count), average = full(backend, count);
    const Buffer<bf16> copy(count);
    const Buffer<double> momentum(1);
    constexpr double value = 0.99;
    backend.upload(1, &value, momentum.data());
    measure(state, backend, {.bytes = size_of(count, 3 * 4 + 2)}, [&] {
      moving_average(backend, count, momentum.data(), x.data(), ts::Parameter<bf16>{average.data(), copy.data()});
    });
  });
  add("check_finite", [](benchmark::State& state) {
    Backend backend;
    const auto gradient = full(backend, count);
    const Buffer<double> loss(1);
    const Buffer<double> blocked(1);
    measure(state, backend, {.bytes = size_of(count, 4)},
            [&] { check_finite(backend, count, gradient.data(), loss.data(), blocked.data()); });
  });
  add("squared_norms", [](benchmark::State& state) {
    Backend backend;
    const auto gradient = full(backend, count);
    const std::span<const ts::Entry> entries(Online::entries);
    const Buffer<double> squares(static_cast<index>(entries.size()));
    measure(state, backend, {.bytes = size_of(count, 4)},
            [&] { squared_norms(backend, entries, gradient.data(), squares.data()); });
  });
  add("add_squares", [](benchmark::State& state) {
    Backend backend;
    const auto gradient = full(backend, count);
    const Buffer<double> sum(1);
    measure(state, backend, {.bytes = size_of(count, 4)},
            [&] { add_squares(backend, count, gradient.data(), sum.data()); });
  });
  add("clip", [](benchmark::State& state) {
    Backend backend;
    const auto gradient = full(backend, count);
    const Buffer<double> square(1);
    const Buffer<double> blocked(1);
    constexpr double value = 4;
    backend.upload(1, &value, square.data());
    measure(state, backend, {.bytes = size_of(count, 2 * 4)},
            [&] { clip(backend, count, 0.5, square.data(), blocked.data(), gradient.data()); });
  });
}

// FLOPs as FlashAttention counts them: 4 tokens^2 x width forward, 2.5 times that backward.
template <int tokens_, int heads, int dim>
void attention(index batch) {
  constexpr int columns = heads * dim;
  const double flops = 4.0 * tokens_ * tokens_ * columns * static_cast<double>(batch);
  const std::string suffix = fmt::format("/{}x{}x{}x{}", batch, tokens_, heads, dim);
  const index count = batch * tokens_ * columns;
  add("attention_forward" + suffix, [=](benchmark::State& state) {
    Backend backend;
    const auto qkv = low(backend, 3 * count), out = low(backend, count);
    const auto log_sums = full(backend, batch * heads * tokens_);
    measure(state, backend, {.flops = flops}, [&] {
      attention_forward<tokens_, heads>(backend, input<3 * columns>(qkv), all<columns>(out), all<tokens_>(log_sums));
    });
  });
  add("attention_backward" + suffix, [=](benchmark::State& state) {
    Backend backend;
    const auto qkv = low(backend, 3 * count), out = low(backend, count), d_out = low(backend, count);
    const auto d_qkv = low(backend, 3 * count);
    const auto log_sums = full(backend, batch * heads * tokens_);
    measure(state, backend, {.flops = 2.5 * flops}, [&] {
      attention_backward<tokens_, heads>(backend, input<3 * columns>(qkv), input<columns>(out),
                                         input<tokens_>(log_sums), input<columns>(d_out), all<3 * columns>(d_qkv));
    });
  });
}

// A linear map of a block: forward with bias and, where a block adds one, the residual; both gradients.
template <int in, int out>
void linear(const std::string& name, bool residual) {
  constexpr double flops = 2.0 * rows * in * out;
  add("linear_forward/" + name, [=](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * in), weight = low(backend, in * out), bias = low(backend, out);
    const auto before = low(backend, residual ? rows * out : 1), y = low(backend, rows * out);
    measure(state, backend, {.flops = flops}, [&] {
      linear_forward(backend, input<in>(x), ts::Parameter<bf16>{nullptr, weight.data()},
                     ts::Parameter<bf16>{nullptr, bias.data()},
                     residual ? input<out>(before) : ts::Rows<const bf16, out>{}, all<out>(y));
    });
  });
  add("linear_input_gradient/" + name, [=](benchmark::State& state) {
    Backend backend;
    const auto dy = low(backend, rows * out), weight = low(backend, in * out), dx = low(backend, rows * in);
    measure(state, backend, {.flops = flops}, [&] {
      linear_input_gradient(backend, input<out>(dy), ts::Parameter<bf16>{nullptr, weight.data()}, all<in>(dx));
    });
  });
  add("linear_weight_gradient/" + name, [=](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * in), dy = low(backend, rows * out);
    const auto d_weight = full(backend, in * out), d_bias = full(backend, out);
    measure(state, backend, {.flops = flops},
            [&] { linear_weight_gradient(backend, input<in>(x), input<out>(dy), d_weight.data(), d_bias.data()); });
  });
  // The same gradients, with the bias gradient by the library's kernel where cuBLASLt can sum it beside the product.
  add("linear_weight_gradient_own_sums/" + name, [=](benchmark::State& state) {
    Backend backend;
    const auto x = low(backend, rows * in), dy = low(backend, rows * out);
    const auto d_weight = full(backend, in * out), d_bias = full(backend, out);
    namespace detail = ts::cuda::detail;
    constexpr int vector = ts::cuda::vector_width<bf16>(out);
    measure(state, backend, {.flops = flops}, [&] {
      detail::column_sums<out, vector>(backend, rows, detail::Loaded<vector, bf16>{dy.data()}, d_bias.data());
      linear_weight_gradient(backend, input<in>(x), input<out>(dy), d_weight.data(), static_cast<float*>(nullptr));
    });
  });
}

// MoCo v3's two views of 256 photographs.
void augmentation() {
  add("augment/375x500_to_224", [](benchmark::State& state) {
    constexpr index photographs = 256;
    constexpr int height = 375, across = 500, bytes = height * across * 3;
    Backend backend;
    std::vector<std::uint8_t> noise(static_cast<std::size_t>(photographs * bytes));
    ts::Random random(1, ts::Purpose::test, 0, 0);
    for (std::uint8_t& value : noise) value = static_cast<std::uint8_t>(random.bits());
    std::vector<ts::cuda::ViewTask> drawn;
    for (const ts::data::ViewAugmentation& view : ts::data::moco_v3_views(0.08))
      for (index i = 0; i < photographs; ++i)
        drawn.push_back({i * bytes, across, 3, ts::data::draw_view(height, across, view, random)});
    const index views = static_cast<index>(drawn.size());
    const Buffer<std::uint8_t> pixels(photographs * bytes);
    const Buffer<ts::cuda::ViewTask> tasks(views);
    const Buffer<bf16> made(views * Encoder::in);
    backend.upload(pixels.size(), noise.data(), pixels.data());
    backend.upload(views, drawn.data(), tasks.data());
    measure(state, backend, {.items = static_cast<double>(views)}, [&] {
      augment<3, 224>(backend, tasks.data(), views, pixels.data(), ts::data::imagenet_normalization,
                      all<Encoder::in>(made));
    });
  });
}

}  // namespace

void add_all() {
  ceilings();
  norms();
  elements();
  tokens_and_patches();
  contrasts();
  updates();
  attention<197, 12, 64>(4096);
  attention<197, 6, 64>(4096);
  attention<197, 12, 32>(4096);
  attention<257, 16, 80>(2048);
  attention<1025, 12, 64>(256);
  linear<width, 3 * width>("qkv", false);
  linear<width, width>("proj", true);
  linear<width, hidden>("fc1", false);
  linear<hidden, width>("fc2", true);
  augmentation();
}

}  // namespace bench

int main(int argc, char** argv) {
  bench::add_all();
  return bench::run(argc, argv);
}
