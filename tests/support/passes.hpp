// Forward and backward passes of a small ViT, on any backend.
#pragma once

#include <span>
#include <vector>

#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/random.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/train/networks.hpp"

namespace tessera::test {

// Other image sizes, all tokens, visible patches, drop path and fc_norm have no fixture of their own: backends are
// compared with the CPU in double, on values that a bf16 holds.
using PassesEncoder =
    VisionTransformer<image<24>, patch<6>, 24, 2, 4, 4, vit::policies<position::Learned, pooling::MeanPatchesNorm>>;

inline std::vector<double> normal_bf16(Random& random, index count) {
  std::vector<double> values;
  for (index i = 0; i < count; ++i)
    values.push_back(static_cast<double>(static_cast<float>(bf16(static_cast<float>(random.normal())))));
  return values;
}

// The output of Model, a PassesEncoder or a part of one, and the gradients of PassesEncoder's tensors, with drop path.
template <class Model, class Backend>
std::vector<double> forward_and_backward(Backend& backend) {
  using Scalar = typename Backend::Scalar;
  using Master = Accumulator<Scalar>;
  using Table = Layout<PassesEncoder>;
  constexpr index images = 3, rows = Model::out_rows(images);
  Random random(1, Purpose::test, 0, 0);
  const Held<Scalar, Backend> x(backend, normal_bf16(random, images * Model::in)),
      dy(backend, normal_bf16(random, rows * Model::out)), y(backend, rows * Model::out);
  const Held<Master, Backend> scales(backend, {0, 1.2, 1.2, 1.1, 0, 1.1, 1.3, 1.3, 0, 1, 1, 0});
  const std::vector<int> kept{3, 1, 0, 2, 0, 3, 1, 2, 3};  // of each image
  const typename Backend::template Buffer<int> keep(static_cast<index>(kept.size()));
  backend.upload(keep.size(), kept.data(), keep.data());

  std::vector<Master> parameters(static_cast<std::size_t>(Table::parameters)), none(1);
  initialize(std::span<const Entry>(Table::entries), 1, parameters.data(), none.data());
  const Network<Backend, PassesEncoder> network;
  network.assign(backend, parameters.data(), none.data());
  const typename Backend::template Buffer<Master> gradients(Table::parameters);
  const auto p = network.bind();
  const auto g = bind<PassesEncoder>(gradients.data(), nullptr);
  const Rows<const Scalar, Model::in> input{x.data(), images};
  const Rows<Scalar, Model::out> output{y.data(), rows};
  const Rows<const Scalar, Model::out> d_output{dy.data(), rows};
  comm::Serial communicator;
  for (const bool planned : {false, true}) {
    Context<Backend, comm::Serial> context{backend, communicator};
    context.drop_path = true;
    context.branch_scales = scales.data();
    const auto frame = context.frame();
    if constexpr (requires { Model::kept; })
      Model::backward(context, p, g, input, keep.data(), Model::forward(context, p, input, keep.data(), output),
                      d_output);
    else
      Model::backward(context, p, g, input, Model::forward(context, p, input, output), d_output);
    if (planned) continue;
    backend.arena().commit();
    network.refresh(backend);
  }
  std::vector<double> results;
  for (const Master value : y.values()) results.push_back(static_cast<double>(value));
  const auto values = downloaded(backend, gradients.data(), Table::parameters);
  for (const Entry& entry : Table::entries)
    for (index i = 0; i < entry.size(); ++i)
      results.push_back(static_cast<double>(values[static_cast<std::size_t>(entry.offset + i)]));
  return results;
}

}  // namespace tessera::test
