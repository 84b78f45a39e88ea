// Several ranks train as one with all of the batch.
#include <gmock/gmock.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>
#include <utility>

#include "support/ranks.hpp"
#include "support/rules.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/testing/faulty.hpp"
#include "tessera/train/checkpoint.hpp"

namespace tessera::test {
namespace {

using comm::Replicated;
using comm::ZeroStage1;

// The outcomes of all ranks, which must be the same but for the gradient: with split states a rank has sums of its part
// alone.
template <class Optimizer, template <class, class> class Sharing = Replicated, class Method = Learned>
Outcome<double> train_on(int ranks, const Plan& run, Optimizer optimizer = {}) {
  std::vector<Outcome<double>> outcomes(static_cast<std::size_t>(ranks));
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    outcomes[static_cast<std::size_t>(communicator.rank())] =
        train<Optimizer, Sharing, Method>(backend, communicator, run, optimizer);
  });
  for (std::size_t r = 1; r < outcomes.size(); ++r) {
    if (std::is_same_v<Sharing<cpu::Backend<double>, comm::Threads>, ZeroStage1<cpu::Backend<double>, comm::Threads>>)
      outcomes[r].gradient = outcomes[0].gradient;
    EXPECT_TRUE(outcomes[r] == outcomes[0]) << "rank " << r << " of " << ranks << " differs from rank 0";
  }
  return outcomes[0];
}

template <class Optimizer, class Method = Learned>
Outcome<double> train_alone(const Plan& run, Optimizer optimizer = {}) {
  comm::Serial serial;
  cpu::Backend<double> backend(1);
  return train<Optimizer, Replicated, Method>(backend, serial, run, optimizer);
}

TEST(Ranks, GradientsAreThoseOfOneRankWithTheWholeBatch) {
  const Plan run{.batch = 48};
  const auto alone = train_alone<optim::Sgd>(run);
  for (const int ranks : {1, 2, 3, 4, 6, 8, 12, 16}) {
    const auto together = train_on<optim::Sgd>(ranks, run);
    EXPECT_NEAR(together.losses[0], alone.losses[0], 1e-12) << ranks;
    EXPECT_LE(tensor_error<OnlineLayout<Learned>>(together.gradient, alone.gradient), 1e-12) << ranks;
  }
}

// BatchNorm's batch is that of all ranks: an image on each is enough.
TEST(Ranks, MayHaveOneImageEach) {
  const Plan run{.batch = 2};
  const auto alone = train_alone<optim::Sgd>(run), together = train_on<optim::Sgd>(2, run);
  EXPECT_NEAR(together.losses[0], alone.losses[0], 1e-10);
  EXPECT_LE(tensor_error<OnlineLayout<Learned>>(together.gradient, alone.gradient), 1e-8);
}

template <class Optimizer>
void check_trajectory(const Plan& run, Optimizer optimizer = {}) {
  const auto alone = train_alone(run, optimizer);
  for (const int ranks : {2, 3, 4, 8}) {
    SCOPED_TRACE(fmt::format("{} on {} ranks", Optimizer::name, ranks));
    const auto together = train_on(ranks, run, optimizer);
    for (std::size_t t = 0; t < alone.losses.size(); ++t) EXPECT_NEAR(together.losses[t], alone.losses[t], 1e-10) << t;
    EXPECT_LE(tensor_error<OnlineLayout<Learned>>(together.student, alone.student), 1e-10);
    EXPECT_LE(tensor_error<AverageLayout<Learned>>(together.teacher, alone.teacher), 1e-10);
  }
}

TEST(Ranks, TrajectoriesAreThoseOfOneRank) {
  // epsilon is larger than the rounding of gradients that are zero in exact arithmetic, which Adam would blow up.
  check_trajectory<optim::AdamW>({.steps = 20, .learning_rate = 1e-4}, {.epsilon = 1e-6});
  check_trajectory<optim::Lars>({.steps = 20, .learning_rate = 0.3});
  check_trajectory<optim::Lamb>({.steps = 20, .learning_rate = 1e-3});
  check_trajectory<optim::Sgd>({.steps = 20, .learning_rate = 0.03});
}

// The norm of all gradients is that of one rank, with whole states and with split ones, and so is what is clipped by
// it.
TEST(Ranks, ClipByTheNormOfAllGradients) {
  constexpr double limit = 0.05;
  const Plan free{.steps = 4, .learning_rate = 0.03};
  Plan clipped = free;
  clipped.clip_grad = limit;
  const auto alone = train_alone<optim::Sgd, Frozen>(clipped);
  EXPECT_GT(tensor_error<OnlineLayout<Frozen>>(alone.student, train_alone<optim::Sgd, Frozen>(free).student), 1e-4);
  double square = 0;
  for (const Entry& entry : OnlineLayout<Frozen>::entries)
    if (entry.role == Role::trained)
      for (index i = 0; i < entry.size(); ++i)
        square += std::pow(alone.gradient[static_cast<std::size_t>(entry.offset + i)], 2);
  EXPECT_NEAR(std::sqrt(square), limit, 1e-6);
  for (const int ranks : {2, 3, 4})
    for (const index bytes : {index{1}, index{16} << 10, index{1} << 30}) {
      SCOPED_TRACE(fmt::format("{} ranks, buckets of {} bytes", ranks, bytes));
      clipped.bucket_bytes = bytes;
      const auto together = train_on<optim::Sgd, Replicated, Frozen>(ranks, clipped);
      auto split = train_on<optim::Sgd, ZeroStage1, Frozen>(ranks, clipped);
      EXPECT_LE(tensor_error<OnlineLayout<Frozen>>(together.student, alone.student), 1e-10);
      EXPECT_LE(tensor_error<AverageLayout<Frozen>>(together.teacher, alone.teacher), 1e-10);
      split.gradient = together.gradient;
      EXPECT_TRUE(split == together) << "with split states";
    }
}

TEST(Ranks, ALimitThatIsNotReachedChangesNoBit) {
  Plan run{.steps = 3};
  const auto expected = train_on<optim::AdamW>(3, run);
  run.clip_grad = 1e9;
  EXPECT_TRUE(train_on<optim::AdamW>(3, run) == expected);
}

TEST(Ranks, RunsAreTheSameBits) {
  const Plan run{.steps = 3};
  for (const int ranks : {2, 4}) EXPECT_TRUE(train_on<optim::AdamW>(ranks, run) == train_on<optim::AdamW>(ranks, run));
}

TEST(Ranks, BucketsDoNotChangeABit) {
  Plan run{.steps = 3};
  const auto expected = train_on<optim::AdamW>(3, run);
  for (const index bytes : {index{1}, index{4} << 10, index{1} << 20, std::numeric_limits<index>::max()}) {
    run.bucket_bytes = bytes;
    EXPECT_TRUE(train_on<optim::AdamW>(3, run) == expected) << "buckets of " << bytes << " bytes";
  }
}

// A communicator whose calls begin later, by times that differ from rank to rank and call to call.
class Late {
 public:
  Late(comm::Threads inner, std::uint64_t seed)
      : inner_(std::move(inner)), random_(seed, Purpose::test, static_cast<std::uint32_t>(inner_.rank()), 0) {}
  [[nodiscard]] int rank() const { return inner_.rank(); }
  [[nodiscard]] int size() const { return inner_.size(); }
  void all_reduce(auto& queue, auto* values, index count) { delay().all_reduce(queue, values, count); }
  void reduce_scatter(auto& queue, auto* values, comm::Displacements displacements) {
    delay().reduce_scatter(queue, values, displacements);
  }
  void all_gather(auto& queue, auto* values, comm::Displacements displacements) {
    delay().all_gather(queue, values, displacements);
  }
  void broadcast(auto& queue, auto* values, index count) { delay().broadcast(queue, values, count); }
  void wait(auto&) {}
  [[nodiscard]] Late duplicate() { return {inner_.duplicate(), random_.below(1000)}; }
  void set_deadline(std::chrono::milliseconds deadline) { inner_.set_deadline(deadline); }
  void abort() noexcept { inner_.abort(); }

 private:
  comm::Threads& delay() {
    std::this_thread::sleep_for(std::chrono::microseconds(random_.below(2000)));
    return inner_;
  }
  comm::Threads inner_;
  Random random_;
};

TEST(Ranks, DelaysDoNotChangeABit) {
  const Plan plan{.steps = 3, .bucket_bytes = index{4} << 10};
  const auto expected = train_on<optim::AdamW>(3, plan);
  for (const std::uint64_t seed : {1, 2, 3, 4, 5})
    comm::run_threads(3, [&](comm::Threads& communicator) {
      cpu::Backend<double> backend(1);
      Late late(communicator.duplicate(), seed);
      EXPECT_TRUE(train<optim::AdamW>(backend, late, plan) == expected) << "seed " << seed;
    });
}

template <class Optimizer, class Method = Learned>
void check_split_states(double learning_rate) {
  for (const int ranks : {2, 3, 4}) {
    SCOPED_TRACE(fmt::format("{} on {} ranks", Optimizer::name, ranks));
    for (const index bytes : {index{1}, index{16} << 10, index{1} << 30}) {
      const Plan run{.steps = 3, .learning_rate = learning_rate, .bucket_bytes = bytes};
      auto split = train_on<Optimizer, ZeroStage1, Method>(ranks, run);
      const auto replicated = train_on<Optimizer, Replicated, Method>(ranks, run);
      split.gradient = replicated.gradient;
      EXPECT_TRUE(split == replicated) << "buckets of " << bytes << " bytes";
    }
  }
}

TEST(Ranks, SplitStatesDoNotChangeABit) {
  check_split_states<optim::AdamW>(1e-3);
  check_split_states<optim::Sgd>(0.03);
  check_split_states<optim::Lamb>(1e-3);
  check_split_states<optim::Lars>(0.3);
  check_split_states<optim::AdamW, Frozen>(1e-3);
}

// Each rank's memory for states is its share and little more.
TEST(Ranks, SplitStatesAreSplit) {
  comm::run_threads(4, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads> whole(backend, communicator, optim::AdamW{}, {.batch = 6});
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads, ZeroStage1> split(backend, communicator, optim::AdamW{},
                                                                              {.batch = 6});
    const index states = 2 * OnlineLayout<Learned>::parameters * index{sizeof(double)};
    EXPECT_NEAR(static_cast<double>(whole.parameter_bytes() - split.parameter_bytes()),
                0.75 * static_cast<double>(states), 0.02 * static_cast<double>(states));
  });
}

// With a value of an image of one rank that is not a number, all ranks refuse the same step, all keep their
// weights, and all can go on.
template <template <class, class> class Sharing>
void check_not_finite(double bad) {
  constexpr int ranks = 3, culprit = 1;
  const Plan plan;
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads, Sharing> trainer(backend, communicator, optim::AdamW{},
                                                                             {.batch = 8, .seed = 3});
    auto images = random_views<Learned>(plan, 0, communicator.rank(), ranks);
    const StepSettings<Learned> settings{1e-3, {0.2, 0.95}};
    trainer.step(batch_of<Learned>(images.data(), 8), settings);
    const auto before = outcome_of(trainer, {}).student;
    const double good = std::exchange(images[5], communicator.rank() == culprit ? bad : images[5]);
    EXPECT_THROW(trainer.step(batch_of<Learned>(images.data(), 8), settings), NotFinite)
        << "rank " << communicator.rank();
    EXPECT_EQ(trainer.steps(), 1);
    EXPECT_EQ(outcome_of(trainer, {}).student, before) << "rank " << communicator.rank();
    images[5] = good;
    EXPECT_TRUE(std::isfinite(trainer.step(batch_of<Learned>(images.data(), 8), settings)))
        << "rank " << communicator.rank();
    for (const double value : outcome_of(trainer, {}).student_statistics) ASSERT_TRUE(std::isfinite(value));
  });
}

TEST(Ranks, DecideAlikeOnWhatIsNotFinite) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    check_not_finite<Replicated>(bad);
    check_not_finite<ZeroStage1>(bad);
  }
}

// Ranks that update all weights refuse the same step if the update makes some of them infinite. Where ranks have parts,
// the one with such a part refuses it, and no rank comes to save anything, also by a rule without moments.
template <template <class, class> class Sharing>
void check_overflow() {
  constexpr bool split = Sharing<cpu::Backend<double>, comm::Threads>::split;
  std::atomic<int> refused = 0, saved = 0;
  const auto run = [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    const auto grouping = [](const Entry& entry) {
      return optim::Group{.rate = entry.name.view() == "base_encoder.cls_token" ? 1e308 : 1};
    };
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads, Sharing> trainer(
        backend, communicator, NormalizedSgd{}, {.batch = 8, .seed = 3, .groups = grouping});
    const auto images = random_views<Learned>({}, 0, communicator.rank(), 3);
    trainer.step(batch_of<Learned>(images.data(), 8), {0, {0.2, 0.95}});
    try {
      trainer.step(batch_of<Learned>(images.data(), 8), {1e3, {0.2, 0.95}});
    } catch (const NotFinite& problem) {
      EXPECT_THAT(problem.what(), ::testing::HasSubstr("step 2: the update made 'base_encoder.cls_token' infinite"));
      EXPECT_EQ(trainer.steps(), 1);
      ++refused;
      throw;
    }
    trainer.with_tensors([&](const auto&) { ++saved; });
  };
  EXPECT_THROW(comm::run_threads(3, run), NotFinite);
  EXPECT_EQ(refused, split ? 1 : 3);
  EXPECT_EQ(saved, 0);
}

TEST(Ranks, DoNotSaveWhatAnUpdateMadeInfinite) {
  check_overflow<Replicated>();
  check_overflow<ZeroStage1>();
}

// The gradients of frozen tensors are assigned when they are asked for, yet their sums travel with every bucket.
TEST(Ranks, GradientsOfFrozenTensorsDoNotGrow) {
  comm::run_threads(4, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Frozen, cpu::Backend<double>, comm::Threads> trainer(backend, communicator, optim::Sgd{},
                                                                   {.batch = 6, .seed = 3});
    const auto images = random_views<Frozen>({}, 0, communicator.rank(), 4);
    StepSettings<Frozen> settings{0, {0.2, 0.95}};
    settings.frozen_gradients = true;
    trainer.step(batch_of<Frozen>(images.data(), 6), settings);
    const double asked_for = trainer.gradient_norm("base_encoder.patch_embed");
    settings.frozen_gradients = false;
    for (int t = 0; t < 3; ++t) trainer.step(batch_of<Frozen>(images.data(), 6), settings);
    EXPECT_GT(asked_for, 0);
    EXPECT_LE(trainer.gradient_norm("base_encoder.patch_embed"), asked_for);
  });
}

// A rank with a part of the sums tells the norms of all of them.
TEST(Ranks, NormsOfGradientsAreThoseOfTheSums) {
  const auto norms_with = [&]<template <class, class> class Sharing>(double clip_grad) {
    std::vector<double> found(3);
    comm::run_threads(3, [&](comm::Threads& communicator) {
      cpu::Backend<double> backend(1);
      TrainerOn<Learned, cpu::Backend<double>, comm::Threads, Sharing> trainer(
          backend, communicator, optim::Sgd{},
          {.batch = 8, .seed = 3, .bucket_bytes = index{16} << 10, .clip_grad = clip_grad});
      const auto images = random_views<Learned>({}, 0, communicator.rank(), 3);
      trainer.step(batch_of<Learned>(images.data(), 8), {1e-3, {0.2, 0.95}});
      found[static_cast<std::size_t>(communicator.rank())] = trainer.gradient_norm("");
    });
    return found;
  };
  const auto replicated = norms_with.template operator()<Replicated>(0);
  EXPECT_GT(replicated[0], 0);
  EXPECT_EQ(norms_with.template operator()<ZeroStage1>(0), replicated);
  for (const double norm : norms_with.template operator()<ZeroStage1>(0.01))
    EXPECT_NEAR(norm, replicated[0], 1e-12 * replicated[0]) << "before clipping";
}

TEST(Ranks, AgreeToStop) {
  comm::run_threads(3, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads> trainer(backend, communicator, optim::AdamW{},
                                                                    {.batch = 8, .seed = 3});
    const auto images = random_views<Learned>({}, 0, communicator.rank(), 3);
    StepSettings<Learned> settings{1e-3, {0.2, 0.95}};
    trainer.step(batch_of<Learned>(images.data(), 8), settings);
    EXPECT_FALSE(trainer.stop_wished());
    settings.stop = communicator.rank() == 2;
    trainer.step(batch_of<Learned>(images.data(), 8), settings);
    EXPECT_TRUE(trainer.stop_wished()) << "rank " << communicator.rank();
  });
}

// A rank that leaves in the middle of a step: the others are told which step and which rank, and do not wait for ever.
TEST(Ranks, NameTheOneThatIsMissing) {
  const auto start = std::chrono::steady_clock::now();
  try {
    comm::run_threads(3, [&](comm::Threads& communicator) {
      communicator.set_deadline(std::chrono::milliseconds(500));
      cpu::Backend<double> backend(1);
      TrainerOn<Learned, cpu::Backend<double>, comm::Threads> trainer(backend, communicator, optim::AdamW{},
                                                                      {.batch = 8, .seed = 3});
      const auto images = random_views<Learned>({}, 0, communicator.rank(), 3);
      trainer.step(batch_of<Learned>(images.data(), 8), {1e-3, {0.2, 0.95}});
      if (communicator.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(900));
      trainer.step(batch_of<Learned>(images.data(), 8), {1e-3, {0.2, 0.95}});
    });
    FAIL() << "nobody noticed";
  } catch (const comm::RankLost& lost) {
    EXPECT_THAT(lost.what(),
                ::testing::MatchesRegex("step 2: all_reduce of [0-9]+ double \\(call [0-9]+\\): rank 1 did "
                                        "not come within 0.5 s"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

// A rank that throws within a step, and goes on with something else: its trainer's end tells the others.
TEST(Ranks, HearOfAStepThatWasGivenUp) {
  using Communicator = testing::Faulty<comm::Threads>;
  const auto start = std::chrono::steady_clock::now();
  comm::run_threads(3, [&](comm::Threads& threads) {
    threads.set_deadline(std::chrono::seconds(20));
    const bool culprit = threads.rank() == 1;
    Communicator communicator(threads, {culprit ? testing::Fault::Kind::exception : testing::Fault::Kind::none, 2});
    cpu::Backend<double> backend(1);
    std::string why;
    try {
      TrainerOn<Learned, cpu::Backend<double>, Communicator> trainer(backend, communicator, optim::AdamW{},
                                                                     {.batch = 8, .seed = 3});
      const auto images = random_views<Learned>({}, 0, communicator.rank(), 3);
      trainer.step(batch_of<Learned>(images.data(), 8), {1e-3, {0.2, 0.95}});
    } catch (const Error& error) {
      why = error.what();
    }
    EXPECT_THAT(why, ::testing::HasSubstr(culprit ? "rank 1 throws" : "rank 1 gave up"));
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

// Of weights with a copy of lower precision, other ranks' parts of both are fetched.
TEST(Ranks, FetchWeightsAndTheirCopies) {
  comm::run_threads(3, [](comm::Threads& communicator) {
    using Backend = cpu::Backend<float>;
    constexpr index size = OnlineLayout<Learned>::parameters;
    Backend backend(1);
    std::vector<float> gradient(size), master(size);
    std::vector<bf16> copy(size);
    ZeroStage1<Backend, comm::Threads> exchange(backend, communicator, OnlineLayout<Learned>::entries, false,
                                                gradient.data(), size, comm::default_bucket_bytes);
    exchange.begin();
    exchange.finish();
    exchange.settle();
    backend.arena().commit();
    exchange.for_parts(size, [&](index first, index count) {
      std::fill_n(master.begin() + first, count, 2.0f);
      std::fill_n(copy.begin() + first, count, bf16(3.0f));
    });
    exchange.gather(size, MasterAndCopy<bf16>(master.data(), copy.data()));
    EXPECT_EQ(std::count(master.begin(), master.end(), 2.0f), size) << "rank " << communicator.rank();
    EXPECT_EQ(std::count_if(copy.begin(), copy.end(), [](bf16 value) { return static_cast<float>(value) == 3.0f; }),
              size)
        << "rank " << communicator.rank();
  });
}

// Trains, saves on some ranks, continues on others; with states split or not: the same file, to the bit.
template <template <class, class> class Sharing>
void continue_on(int ranks, const std::filesystem::path& from, const std::filesystem::path& to, int steps) {
  const Plan plan;
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads, Sharing> trainer(
        backend, communicator, optim::AdamW{},
        {.batch = plan.batch / ranks, .seed = 3, .bucket_bytes = index{16} << 10});
    if (!from.empty()) load_checkpoint(from, trainer, {});
    for (int t = 0; t < steps; ++t) {
      const auto images = random_views<Learned>(plan, static_cast<int>(trainer.steps()), communicator.rank(), ranks);
      trainer.step(batch_of<Learned>(images.data(), trainer.batch()), {1e-3, {0.2, 0.95}});
    }
    save_checkpoint(to, trainer, {});
  });
}

[[nodiscard]] std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Ranks, CheckpointsAreForAnyNumberOfThem) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("tessera-ranks-{}", ::getpid());
  std::filesystem::create_directories(folder);
  const auto file = [&](const char* name) { return folder / name; };
  continue_on<ZeroStage1>(4, {}, file("split"), 3);
  continue_on<Replicated>(4, {}, file("replicated"), 3);
  EXPECT_EQ(bytes_of(file("split")), bytes_of(file("replicated")));
  continue_on<ZeroStage1>(3, file("split"), file("same"), 0);
  EXPECT_EQ(bytes_of(file("same")), bytes_of(file("split")));
  continue_on<ZeroStage1>(3, file("split"), file("on_3"), 2);
  continue_on<Replicated>(3, file("replicated"), file("whole_on_3"), 2);
  EXPECT_EQ(bytes_of(file("on_3")), bytes_of(file("whole_on_3")));
  continue_on<Replicated>(4, {}, file("never_stopped"), 5);
  continue_on<ZeroStage1>(4, file("split"), file("continued"), 2);
  EXPECT_EQ(bytes_of(file("continued")), bytes_of(file("never_stopped")));
  std::filesystem::remove_all(folder);
}

// The disk of rank 0 is enough, and where another rank has an older file, that one does not count.
TEST(Ranks, ContinueFromTheCheckpointOfRank0) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("tessera-rank-0-{}", ::getpid());
  std::filesystem::create_directories(folder);
  continue_on<Replicated>(2, {}, folder / "older", 1);
  continue_on<Replicated>(2, folder / "older", folder / "newer", 1);
  const auto check = [&]<template <class, class> class Sharing>() {
    comm::run_threads(3, [&](comm::Threads& communicator) {
      cpu::Backend<double> backend(1);
      TrainerOn<Learned, cpu::Backend<double>, comm::Threads, Sharing> trainer(backend, communicator, optim::AdamW{},
                                                                               {.batch = 8, .seed = 7});
      load_checkpoint(folder / std::array{"newer", "older", "none"}[static_cast<std::size_t>(communicator.rank())],
                      trainer, {});
      EXPECT_EQ(trainer.steps(), 2) << "rank " << communicator.rank();
      save_checkpoint(folder / "again", trainer, {});
    });
    EXPECT_EQ(bytes_of(folder / "again"), bytes_of(folder / "newer"));
  };
  check.template operator()<Replicated>();
  check.template operator()<ZeroStage1>();
  std::filesystem::remove_all(folder);
}

TEST(Ranks, AllAreToldThatACheckpointCouldNotBeReadOrWritten) {
  std::atomic<int> told = 0;
  comm::run_threads(3, [&](comm::Threads& communicator) {
    cpu::Backend<double> backend(1);
    TrainerOn<Learned, cpu::Backend<double>, comm::Threads> trainer(backend, communicator, optim::AdamW{},
                                                                    {.batch = 8, .seed = 3});
    const auto expect_error = [&](auto&& call) {
      try {
        call();
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("/nowhere/at/all"));
        ++told;
      }
    };
    expect_error([&] { save_checkpoint("/nowhere/at/all", trainer, {}); });
    expect_error([&] { load_checkpoint("/nowhere/at/all", trainer, {}); });
  });
  EXPECT_EQ(told, 6);
}

// A fixture's step, dealt out to as many ranks as the reference had.
void check_fixture(const char* name, int ranks) {
  const Fixture fixture(name);
  const index batch = fixture.tensor("x1").shape[0] / ranks;
  const auto& losses = fixture.tensor("loss_per_rank").values;
  double mean = 0;
  for (const double one : losses) mean += one / static_cast<double>(losses.size());
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    using Backend = cpu::Backend<double>;
    Backend backend(1);
    Session<Frozen, Backend, comm::Threads> run(backend, fixture, batch, optim::AdamW{}, communicator);
    const double loss = run.step(0, 0, fixture.number("m"));
    EXPECT_NEAR(loss, mean, 1e-9);
    run.expect_gradient();
    run.expect_statistics();
  });
}

TEST(Ranks, TwoAreTheReference) {
  check_fixture("moco_ranks_2", 2);
}
TEST(Ranks, ThreeAreTheReference) {
  check_fixture("moco_ranks_3", 3);
}

}  // namespace
}  // namespace tessera::test
