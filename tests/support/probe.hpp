// Linear probes of random images, on any backend.
#pragma once

#include <vector>

#include "support/study.hpp"
#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/core/random.hpp"
#include "tessera/objectives/linear_probe.hpp"
#include "tessera/optim/optimizer.hpp"

namespace tessera::test {

// Each classifier's losses of some steps, one after the other.
template <class Backend>
std::vector<double> probe_losses(Backend& backend) {
  using Objective = objectives::LinearProbe<StudyEncoder<>, 7, 3, objectives::ProbeNorm::batch_norm>;
  constexpr index batch = 6;
  comm::Serial alone;
  TrainerOn<Objective, Backend> trainer(backend, alone, optim::Lars{.weight_decay = 0},
                                        {.batch = batch, .seed = 5, .groups = Objective::groups({})});
  Held<typename Backend::Scalar, Backend> images(backend, batch * Objective::Encoder::in);
  const typename Backend::template Buffer<int> labels(batch);
  auto read = batch_of<Objective>(static_cast<const typename Backend::Scalar*>(images.data()), batch);
  read.labels = labels.data();
  std::vector<double> losses;
  for (std::uint32_t t = 0; t < 5; ++t) {
    Random random(3, Purpose::test, t, 0);
    std::vector<double> pixels(static_cast<std::size_t>(batch * Objective::Encoder::in));
    for (double& pixel : pixels) pixel = random.normal();
    images.assign(pixels);
    std::vector<int> drawn;
    for (index i = 0; i < batch; ++i) drawn.push_back(static_cast<int>(random.below(Objective::classes)));
    backend.upload(batch, drawn.data(), labels.data());
    trainer.step(read, {.learning_rate = 0.1});
    for (const auto& tensor : trainer.networks().tensors())
      if (tensor.name == "losses")
        for (const auto loss : downloaded(backend, tensor.data, Objective::classifiers))
          losses.push_back(static_cast<double>(loss));
  }
  return losses;
}

}  // namespace tessera::test
