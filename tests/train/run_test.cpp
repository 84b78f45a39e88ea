#include "tessera/train/run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "support/run.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

using testing::ElementsAre;

using Encoder = VisionTransformer<image<14, 1>, patch<7>, 24, 2, 2, 4, vit::policies<embed::FrozenPatches>>;
using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
using Backend = cpu::Backend<float>;

[[nodiscard]] std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / fmt::format("tessera_run_{}_{}", ::getpid(), name);
}

using Whole = WholeRun<Objective, Backend>;

// Two epochs of five steps over 40 images, into a folder of its own.
[[nodiscard]] Recipe small_recipe(const std::string& name, double warmup_epochs) {
  Recipe recipe;
  recipe.arch = "test";
  recipe.batch_size = 8;
  recipe.epochs = 2;
  recipe.warmup_epochs = warmup_epochs;
  recipe.out = scratch(name);
  return recipe;
}

TEST(Run, ResumesBitwiseFromItsCheckpoint) {
  const data::IdxDataset images = noise(40, 14, 14);
  Recipe recipe = small_recipe("resume", 0.5);
  testing::internal::CaptureStdout();
  Backend one(2), two(2), three(2);
  Whole whole(one, recipe, images);
  EXPECT_TRUE(whole());

  {
    Whole stopped(two, recipe, images);
    stopped.save();
  }
  recipe.resume = recipe.checkpoint();
  recipe.workers = 2;
  Whole resumed(three, recipe, images);
  EXPECT_TRUE(resumed());
  const std::string output = testing::internal::GetCapturedStdout();
  EXPECT_THAT(output, testing::HasSubstr("k-NN accuracy"));
  EXPECT_EQ(weights_of(whole.trainer()), weights_of(resumed.trainer()));
  std::filesystem::remove_all(recipe.out);
}

// A run whose update overflows ends with that, and its last checkpoint stays: there is none if it was the first step.
TEST(Run, SavesNothingThatIsNotFinite) {
  const data::IdxDataset images = noise(40, 14, 14);
  testing::internal::CaptureStdout();
  for (const bool warm_up : {true, false}) {
    Recipe recipe = small_recipe("overflow", warm_up ? 1 : 0);  // a warm-up begins at a rate of 0
    recipe.lr = 1e300;
    recipe.save_every = 1;
    Backend backend(2);
    Whole whole(backend, recipe, images);
    EXPECT_THROW(whole(), NotFinite);
    const std::filesystem::path checkpoint = recipe.checkpoint();
    ASSERT_EQ(std::filesystem::exists(checkpoint), warm_up);
    if (warm_up) {
      const io::Safetensors file(checkpoint);
      EXPECT_EQ(file.metadata().at("step"), "1");
      for (const std::string& name : file.names()) {
        const std::vector<float> values = file.read<float>(name);
        EXPECT_TRUE(math::all_finite(values.data(), static_cast<index>(values.size()))) << name;
      }
    }
    std::filesystem::remove_all(recipe.out);
  }
  testing::internal::GetCapturedStdout();
}

// The same images for every step.
template <class Communicator = comm::Serial>
struct Steps {
  explicit Steps(int epochs = 2, Communicator ranks = {}) : communicator(std::move(ranks)) {
    recipe.epochs = epochs;
    recipe.warmup_epochs = 1;
    recipe.batch_size = 8;
    recipe.lr = 256.0 / 8;  // a rate of 1 behind the warm-up
    Random random(3, Purpose::test, static_cast<std::uint32_t>(communicator.rank()), 0);
    for (float& value : images) value = random.uniform(-1, 1);
  }
  [[nodiscard]] auto next() {
    ++given;
    return batch_of<Objective>(static_cast<const float*>(images.data()), trainer.batch());
  }
  void prepare() { ++prepared; }

  // Three steps an epoch.
  template <class... Callbacks>
  bool operator()(Callbacks&... callbacks) {
    Run run(trainer, recipe, {}, 3);
    return run(*this, callbacks...);
  }

  Recipe recipe;
  Backend backend{1};
  Communicator communicator;
  TrainerOn<Objective, Backend, Communicator> trainer{
      backend, communicator, optim::Sgd{.weight_decay = 0}, {.batch = 4}};
  std::vector<float> images = std::vector<float>(2 * 4 * Encoder::in);
  int given = 0, prepared = 0;
};

// Writes down that it is called.
struct Witness {
  std::string name;
  std::vector<std::string>& seen;

  template <class Run>
  void begin(Run& run) {
    seen.push_back(fmt::format("{} begins at {}", name, run.steps()));
  }
  template <class Run>
  bool stop(Run&) {
    seen.push_back(name + " may stop");
    return false;
  }
  template <class Run, class StepSettings>
  void prepare(Run& run, StepSettings&) {
    seen.push_back(fmt::format("{} prepares {}", name, run.steps() + 1));
  }
  template <class Run>
  void after(Run& run, const StepReport& report) {
    seen.push_back(fmt::format("{} after {}{}", name, run.steps(), report.last ? ", the last" : ""));
  }
  template <class Run>
  void end(Run&, bool finished) {
    seen.push_back(name + (finished ? " ends" : " is stopped"));
  }
};

TEST(Run, CallsItsCallbacksInTheirOrder) {
  std::vector<std::string> seen;
  Witness a{"a", seen}, b{"b", seen};
  Steps steps;
  steps.recipe.warmup_epochs = 0;
  steps.recipe.epochs = 2.0 / 3;  // two steps
  EXPECT_TRUE(steps(a, b));
  EXPECT_THAT(seen, ElementsAre("a begins at 0", "b begins at 0", "a may stop", "b may stop",  //
                                "a may stop", "b may stop", "a prepares 1", "b prepares 1",    //
                                "a after 1", "b after 1",                                      //
                                "a may stop", "b may stop", "a prepares 2", "b prepares 2",    //
                                "a after 2, the last", "b after 2, the last",                  //
                                "a ends", "b ends"));
  EXPECT_EQ(steps.given, 2);
  EXPECT_EQ(steps.prepared, 2);
}

// Has but one of the members.
struct Counter {
  int steps = 0;
  void after(auto&, const StepReport& report) {
    ++steps;
    EXPECT_GT(report.loss, 0);
    EXPECT_GE(report.waited, 0);
    EXPECT_GT(report.seconds, 0);
  }
};

// Members that a callback does not have are not called.
TEST(Run, TakesCallbacksWithSomeMembers) {
  Counter counter;
  struct {
  } nothing;
  Steps steps;
  EXPECT_TRUE(steps(counter, nothing));
  EXPECT_EQ(counter.steps, 6);
}

// Reads what a step is given, and takes its rate away.
struct Reader {
  std::vector<double> rates, epochs;
  void prepare(auto& run, auto& settings) {
    rates.push_back(settings.learning_rate);
    epochs.push_back(settings.epoch);
    EXPECT_EQ(settings.epochs, 2);
    EXPECT_EQ(settings.epoch, run.epoch());
    EXPECT_EQ(settings.settings.temperature, run.settings().temperature);
    settings.learning_rate = 0;
  }
};

TEST(Run, GivesEachStepItsRateAndItsPlaceInTheSchedules) {
  Reader reader;
  Steps steps;
  const auto before = weights_of(steps.trainer);
  EXPECT_TRUE(steps(reader));
  for (std::size_t t = 0; t < 6; ++t) {
    EXPECT_DOUBLE_EQ(reader.epochs[t], static_cast<double>(t) / 3);
    EXPECT_DOUBLE_EQ(reader.rates[t], steps.recipe.learning_rate(reader.epochs[t]));
  }
  EXPECT_DOUBLE_EQ(reader.rates[3], 1);
  EXPECT_EQ(weights_of(steps.trainer), before);
}

// Asks to stop when it is asked for the `limit`-th time.
struct Stop {
  int limit, asked = 0;
  bool stop(auto&) { return ++asked >= limit; }
};

TEST(Run, StopsWhereACallbackWantsIt) {
  for (const int limit : {1, 2, 4}) {
    std::vector<std::string> seen;
    Witness witness{"w", seen};
    Stop stop{limit};
    Steps steps;
    EXPECT_FALSE(steps(stop, witness));
    EXPECT_EQ(steps.trainer.steps(), limit - 1);  // the wish is heard before a step, which is then the last one
    EXPECT_EQ(seen.back(), "w is stopped");
  }
}

TEST(Run, IsFinishedIfItIsStoppedInItsLastStep) {
  Stop stop{7};
  Steps steps;
  EXPECT_TRUE(steps(stop));
  EXPECT_EQ(steps.trainer.steps(), 6);
}

TEST(Run, GoesOnWhereItWasStopped) {
  Steps whole, halves;
  EXPECT_TRUE(whole());
  Stop stop{4};
  EXPECT_FALSE(halves(stop));
  EXPECT_TRUE(halves());
  EXPECT_EQ(weights_of(halves.trainer), weights_of(whole.trainer));
}

TEST(Run, StopsOnAllRanksIfOneWantsIt) {
  for (const int limit : {1, 3})
    comm::run_threads(3, [&](comm::Threads& communicator) {
      Stop stop{communicator.rank() == 1 ? limit : 1000};
      Steps<comm::Threads> steps(2, communicator.duplicate());
      EXPECT_FALSE(steps(stop)) << "rank " << communicator.rank();
      EXPECT_EQ(steps.trainer.steps(), limit - 1) << "rank " << communicator.rank();
    });
}

struct Asker {
  std::vector<long> epochs, fours;
  void after(auto& run, const StepReport&) {
    if (run.due(0)) epochs.push_back(run.steps());
    if (run.due(4)) fours.push_back(run.steps());
  }
};

TEST(Run, KnowsWhatIsDue) {
  Asker asker;
  Steps steps;
  steps.recipe.epochs = 7.0 / 3;
  EXPECT_TRUE(steps(asker));
  EXPECT_THAT(asker.epochs, ElementsAre(3, 6, 7));
  EXPECT_THAT(asker.fours, ElementsAre(4, 7));
}

TEST(Run, RefusesATrainerThatIsBeyondTheEnd) {
  Steps steps;
  EXPECT_TRUE(steps());
  steps.recipe.epochs = 1.5;
  steps.recipe.resume = "runs/old.safetensors";
  EXPECT_THAT([&] { steps(); }, testing::ThrowsMessage<Error>(testing::HasSubstr(
                                    "runs/old.safetensors: was written at step 6, but this run ends at 4")));
}

}  // namespace
}  // namespace tessera::test
