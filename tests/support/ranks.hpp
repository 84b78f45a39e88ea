// Training runs on one rank or many, to be compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "support/fixture.hpp"
#include "support/parity.hpp"
#include "tessera/comm/data_parallel.hpp"
#include "tessera/core/random.hpp"

namespace tessera::test {

// A run on random images from one seed: `batch` images a step on all ranks together.
struct Plan {
  index batch = 24;
  int steps = 1;
  double learning_rate = 1e-3;
  index bucket_bytes = index{16} << 10;  // several buckets in a model of 28,000 parameters
  double clip_grad = 0;
};

// What a run leaves on one rank.
template <class Scalar>
struct Outcome {
  std::vector<double> losses;
  std::vector<Scalar> gradient, student, teacher, student_statistics, teacher_statistics;

  bool operator==(const Outcome& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    return same(losses, other.losses) && same(gradient, other.gradient) && same(student, other.student) &&
           same(teacher, other.teacher) && same(student_statistics, other.student_statistics) &&
           same(teacher_statistics, other.teacher_statistics);
  }
};

// Rank `rank`'s rows of the stacked views of step t.
template <class Objective>
[[nodiscard]] std::vector<double> random_views(const Plan& plan, int t, int rank, int ranks) {
  const index mine = plan.batch / ranks;
  std::vector<double> images;
  for (int view = 0; view < 2; ++view)
    for (index i = rank * mine; i < (rank + 1) * mine; ++i) {
      Random random(7, Purpose::test, static_cast<std::uint32_t>(t * 2 + view), static_cast<std::uint32_t>(i));
      for (int k = 0; k < Objective::Encoder::in; ++k) images.push_back(random.normal());
    }
  return images;
}

template <class Trainer>
[[nodiscard]] auto outcome_of(Trainer& trainer, std::vector<double> losses) {
  using Master = typename Trainer::Master;
  using Teacher = AverageLayout<typename Trainer::Objective>;
  const auto& online = trainer.networks().online();
  const auto& teacher = trainer.networks().template average<0>();
  const auto read = [&](const Master* from, index count) { return downloaded(trainer.backend(), from, count); };
  return Outcome<Master>{std::move(losses),
                         read(trainer.gradient(), Trainer::Online::parameters),
                         weights_of(trainer),
                         read(teacher.parameters(), Teacher::parameters),
                         read(online.statistics(), Trainer::Online::statistics),
                         read(teacher.statistics(), Teacher::statistics)};
}

// Of one rank.
template <class Rule, template <class, class> class Sharing = comm::Replicated, class Objective = Learned,
          class Backend, class Communicator>
[[nodiscard]] auto train(Backend& backend, Communicator& communicator, const Plan& plan, Rule rule = {}) {
  TrainerOn<Objective, Backend, Communicator, Sharing> trainer(backend, communicator, rule,
                                                               {.batch = plan.batch / communicator.size(),
                                                                .seed = 3,
                                                                .bucket_bytes = plan.bucket_bytes,
                                                                .clip_grad = plan.clip_grad});
  Held<typename Backend::Scalar, Backend> images(backend, 2 * trainer.batch() * Objective::Encoder::in);
  StepSettings<Objective> settings{.learning_rate = plan.learning_rate};
  settings.settings.temperature = 0.2;
  settings.settings.momentum = 0.95;
  std::vector<double> losses;
  for (int t = 0; t < plan.steps; ++t) {
    images.assign(random_views<Objective>(plan, t, communicator.rank(), communicator.size()));
    losses.push_back(trainer.step(
        batch_of<Objective>(static_cast<const typename Backend::Scalar*>(images.data()), trainer.batch()), settings));
  }
  return outcome_of(trainer, std::move(losses));
}

// The largest difference of a tensor relative to its largest magnitude, or to 0.01, over all tensors of a layout.
template <class Table, class Scalar>
[[nodiscard]] double tensor_error(const std::vector<Scalar>& values, const std::vector<Scalar>& expected) {
  double largest = 0;
  for (const Entry& entry : Table::entries) {
    if (entry.role == Role::statistic) continue;
    const auto at = static_cast<std::size_t>(entry.offset);
    const std::vector<double> reference(expected.begin() + entry.offset,
                                        expected.begin() + entry.offset + entry.size());
    largest = std::max(largest, relative_error(values.data() + at, reference));
  }
  return largest;
}

}  // namespace tessera::test
