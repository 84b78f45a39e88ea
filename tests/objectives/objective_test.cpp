// An objective that uses all that one may declare: groups of crops of two sizes, labels, a buffer that lives through
// training, two trained networks and a moving average of a part of the first one.
#include "tessera/objectives/objective.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "support/fixture.hpp"
#include "support/run.hpp"
#include "support/training.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/core/info_nce.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/embed.hpp"
#include "tessera/nn/batch_norm.hpp"
#include "tessera/nn/sequential.hpp"
#include "tessera/optim/optimizer.hpp"
#include "tessera/train/checkpoint.hpp"

namespace tessera::test {
namespace {

// The smallest encoder: two linear maps.
template <class Image_, int width, int hidden = 12>
struct Dense : nn::Sequential<nn::Linear<Image_::values, hidden>, nn::BatchNorm<hidden>,
                              nn::Activation<nn::Relu, hidden>, nn::Linear<hidden, width>> {
  using Image = Image_;
  using Layers = nn::Sequential<nn::Linear<Image::values, hidden>, nn::BatchNorm<hidden>,
                                nn::Activation<nn::Relu, hidden>, nn::Linear<hidden, width>>;

  template <class Context, class Scalar>
  static void encode(Context& context, const typename Layers::template Parameters<Parameter<Scalar>>& p,
                     Rows<const Scalar, Layers::in> images, Rows<Scalar, width> features) {
    const auto frame = context.frame();
    Layers::forward(context, p, images, features);
  }
};

struct Proof {
  static constexpr std::string_view name = "proof", encoder_name = "encoder";
  static constexpr int width = 8, classes = 3, queued = 20, views = 2, local_views = 4;
  using Encoder = Dense<image<32, 1>, width>;
  using Local = Dense<image<16, 1>, width>;
  using Norm = nn::BatchNorm<width>;
  using Classifier = nn::Linear<width, classes>;

  // The average follows the encoder, which comes first; the classifier has none.
  struct Online {
    template <class Leaf>
    struct Parameters {
      typename Encoder::template Parameters<Leaf> encoder;
      typename Norm::template Parameters<Leaf> norm;
      typename Classifier::template Parameters<Leaf> classifier;
    };
    template <class Visit>
    static constexpr auto declare(Visit& visit, const Name& prefix) {
      Parameters<typename Visit::Leaf> p;
      p.encoder = Encoder::declare(visit, prefix / "encoder");
      p.norm = Norm::declare(visit, prefix / "norm");
      p.classifier = Classifier::declare(visit, prefix / "classifier");
      return p;
    }
  };

  using Reads = data::Reads<data::Crops<views, Encoder::Image>, data::Crops<local_views, Local::Image>, data::Labels>;
  using Networks =
      objectives::Networks<objectives::Trained<Online>, objectives::Trained<objectives::Named<"local", Local>>,
                           objectives::Average<objectives::Named<"target", Encoder>>,
                           objectives::Buffer<"queue", queued, width>>;
  struct Settings {
    Schedule temperature = 0.5, momentum = cosine(0.9, 1);
    constexpr void visit(auto&& v) {
      v("temperature", temperature, Range{1e-3, 1e3}, "softmax temperature");
      v("momentum", momentum, Range{0, 1}, "momentum of the average");
    }
  };
  [[nodiscard]] static constexpr const auto& encoder(const auto& online) { return std::get<0>(online).encoder; }

  // Large crops are compared with the average's features of the other view and of earlier images, and classified; small
  // crops are compared with the same features. The network that is declared first runs its backward first.
  template <class Step>
  static void step(Step& s) {
    using Scalar = typename Step::Scalar;
    using Features = Rows<const Scalar, width>;
    static_assert(std::is_same_v<Scalar, Accumulator<Scalar>>, "the queue is copied as it is");
    auto& context = s.context;
    auto& backend = context.backend;
    const auto frame = s.frame();
    const auto large = s.template crops<0>();
    const auto small = s.template crops<1>();
    const auto [p, g] = s.template trained<0>();
    const auto [p_local, g_local] = s.template trained<1>();

    s.move_average(s.value(&Settings::momentum));
    const index keys_of_view = s.all_images() + queued;
    const auto keys = s.template take<width>(views * keys_of_view);
    encode_keys(s, keys);
    backend.clear(1, s.loss());

    context.views = views;
    const auto f = s.template take<width>(large.rows), df = s.template take<width>(large.rows);
    const auto saved = Encoder::forward(context, p.encoder, large, f);
    s.join();
    for (index view = 0; view < views; ++view)
      backend.copy(index{queued} * width, s.template buffer<0>(), keys.row(view * keys_of_view + s.all_images()));
    contrast(s, Features(f), Features(keys), 1, df);
    classify(s, p, g, Features(f), df);
    Encoder::backward(context, p.encoder, g.encoder, large, saved, Features(df), Rows<Scalar, Encoder::in>{});
    s.template gradients_final<0>();

    context.views = local_views;
    const auto l = s.template take<width>(small.rows), dl = s.template take<width>(small.rows);
    const auto saved_local = Local::forward(context, p_local, small, l);
    contrast(s, Features(l), Features(keys), 0.5, dl);
    Local::backward(context, p_local, g_local, small, saved_local, Features(dl), Rows<Scalar, Local::in>{});
    s.template gradients_final<1>();

    backend.copy(index{queued} * width, keys.data, s.template buffer<0>());  // the newest first
  }

 private:
  // For each view the unit features of all images by the average, and room for the queue.
  template <class Step, class Scalar>
  static void encode_keys(Step& s, Rows<Scalar, width> keys) {
    const auto frame = s.frame();
    const auto images = s.template crops<0>();
    s.context.views = views;
    const auto k = s.template take<width>(images.rows);
    const auto inverse_norms = s.template take<1, Accumulator<Scalar>>(s.images());
    Encoder::encode(s.context, s.template average<0>(), images, k);
    for (index view = 0; view < views; ++view) {
      const auto all = keys.part(view * (s.all_images() + queued), s.all_images());
      normalize_rows(s.context.backend, Rows<const Scalar, width>(k.part(view * s.images(), s.images())),
                     all.part(s.first_image(), s.images()), inverse_norms);
      s.start_gathering(all);
    }
  }

  // Crop c of an image against its key of view (c + 1) % views; df is assigned the gradient.
  template <class Step, class Scalar>
  static void contrast(Step& s, Rows<const Scalar, width> f, Rows<const Scalar, width> keys, double weight,
                       Rows<Scalar, width> df) {
    const auto frame = s.frame();
    auto& backend = s.context.backend;
    const index batch = s.images(), keys_of_view = s.all_images() + queued;
    const auto unit = s.template take<width>(f.rows);
    const auto inverse_norms = s.template take<1, Accumulator<Scalar>>(f.rows);
    normalize_rows(backend, f, unit, inverse_norms);
    for (index crop = 0; crop * batch < f.rows; ++crop)
      info_nce(backend, Rows<const Scalar, width>(unit.part(crop * batch, batch)),
               keys.part((crop + 1) % views * keys_of_view, keys_of_view), InfoNce{.weight = weight},
               s.value(&Settings::temperature), s.first_image(), s.all_images(), s.loss(),
               df.part(crop * batch, batch));
    normalize_rows_backward(backend, Rows<const Scalar, width>(unit), Rows<const Accumulator<Scalar>, 1>(inverse_norms),
                            Rows<const Scalar, width>(df), df);
  }

  // Adds the classifier's part of the gradient to df.
  template <class Step, class Scalar>
  static void classify(Step& s, const auto& p, const auto& g, Rows<const Scalar, width> f, Rows<Scalar, width> df) {
    const auto frame = s.frame();
    auto& context = s.context;
    const auto h = s.template take<width>(f.rows), dh = s.template take<width>(f.rows);
    const auto logits = s.template take<classes>(f.rows), d_logits = s.template take<classes>(f.rows);
    const auto saved = Norm::forward(context, p.norm, f, h);
    Classifier::forward(context, p.classifier, Rows<const Scalar, width>(h), logits);
    for (index view = 0; view < views; ++view)
      cross_entropy(context.backend, Rows<const Scalar, classes>(logits.part(view * s.images(), s.images())),
                    s.labels(), nullptr, nullptr, s.all_images(), s.loss(),
                    d_logits.part(view * s.images(), s.images()));
    Classifier::backward(context, p.classifier, g.classifier, Rows<const Scalar, width>(h), nn::Nothing{},
                         Rows<const Scalar, classes>(d_logits), dh);
    Norm::backward(context, p.norm, g.norm, f, saved, Rows<const Scalar, width>(dh), Rows<const Scalar, width>(df), df);
  }
};

static_assert(objectives::Objective<Proof>);
static_assert(Proof::Reads::labels && Proof::Reads::groups == 2 && Proof::Reads::crops == 6);
static_assert(Proof::Networks::starts.size() == 2 && Proof::Networks::starts[0] == 0);
static_assert(Proof::Networks::starts[1] == Layout<Proof::Online>::parameters);
static_assert(OnlineLayout<Proof>::parameters == Layout<Proof::Online>::parameters + Layout<Proof::Local>::parameters);

using Backend = cpu::Backend<double>;

// This rank's share of twelve images, the same in every step: noise, whose mean tells the label.
class Images {
 public:
  static constexpr int count = 12;

  Images(int rank, int ranks) {
    batch = data::Batch<double, Proof::Reads>::planned(count / ranks);
    data::for_crops<Proof::Reads>([&](auto group, int crop, int) {
      for (index i = 0; i < batch.images(); ++i)
        append(crops_[group], group, crop, static_cast<int>(rank * batch.images() + i),
               Proof::Reads::Group<group>::Image::values);
    });
    for (index i = 0; i < batch.images(); ++i) labels_.push_back(static_cast<int>(rank * batch.images() + i) % 3);
    std::get<0>(batch.crops).data = crops_[0].data();
    std::get<1>(batch.crops).data = crops_[1].data();
    batch.labels = labels_.data();
  }
  Images(const Images&) = delete;
  Images& operator=(const Images&) = delete;

  data::Batch<double, Proof::Reads> batch;

 private:
  static void append(std::vector<double>& to, std::size_t group, int crop, int image, int values) {
    Random shape(5, Purpose::test, static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(image));
    Random noise(6, Purpose::test, static_cast<std::uint32_t>(10 * group) + static_cast<std::uint32_t>(crop),
                 static_cast<std::uint32_t>(image));
    for (int k = 0; k < values; ++k) to.push_back(shape.normal() + 0.3 * noise.normal() + 0.2 * (image % 3));
  }

  std::array<std::vector<double>, 2> crops_;
  std::vector<int> labels_;
};

template <class Communicator = comm::Serial, template <class, class> class Sharing = comm::Replicated>
struct Training {
  explicit Training(Communicator ranks = {})
      : communicator(std::move(ranks)), images(communicator.rank(), communicator.size()) {}

  double step() {
    StepSettings<Proof> settings{.learning_rate = 0.02};
    settings.epoch = static_cast<double>(trainer.steps());
    settings.epochs = 100;
    return trainer.step(images.batch, settings);
  }
  // The networks' tensors by name.
  [[nodiscard]] std::map<std::string, std::vector<double>> tensors() const {
    std::map<std::string, std::vector<double>> all;
    for (const auto& tensor : trainer.networks().tensors())
      all[tensor.name] = downloaded(trainer.backend(), tensor.data, tensor.shape.size());
    return all;
  }

  Backend backend{1};
  Communicator communicator;
  Images images;
  TrainerOn<Proof, Backend, Communicator, Sharing> trainer{
      backend,
      communicator,
      optim::Sgd{.weight_decay = 1e-4},
      {.batch = Images::count / communicator.size(), .seed = 3, .bucket_bytes = index{2} << 10}};
};

TEST(Objective, NamesItsTensors) {
  const Training run;
  std::vector<std::string> names;
  for (const auto& [name, values] : run.tensors()) names.push_back(name);
  for (const char* name : {"encoder.0.weight", "encoder.1.running_var", "norm.weight", "classifier.bias",
                           "local.3.weight", "target.0.weight", "target.1.running_mean", "queue"})
    EXPECT_THAT(names, testing::Contains(name));
  EXPECT_THAT(names, testing::Not(testing::Contains("target.norm.weight")));
}

TEST(Objective, AveragesStartAsTheEncoderAndBuffersAtZero) {
  const Training run;
  const auto tensors = run.tensors();
  for (const char* tensor : {"0.weight", "1.running_var", "3.bias"})
    EXPECT_EQ(tensors.at(std::string("target.") + tensor), tensors.at(std::string("encoder.") + tensor)) << tensor;
  EXPECT_EQ(tensors.at("queue"), std::vector<double>(Proof::queued * Proof::width));
}

TEST(Objective, Learns) {
  Training run;
  const double first = run.step();
  double last = first;
  for (int i = 0; i < 60; ++i) last = run.step();
  EXPECT_LT(last, 0.7 * first);
}

// The average moves by the momentum of the step, and the queue keeps the newest keys in front of older ones.
TEST(Objective, MovesItsAverageAndItsQueue) {
  Training run;
  run.step();
  const auto before = run.tensors();
  run.step();
  const auto after = run.tensors();
  const double m = Schedule(cosine(0.9, 1)).at(1, 100);
  const auto &online = before.at("encoder.0.weight"), &old = before.at("target.0.weight");
  for (std::size_t i = 0; i < old.size(); ++i)
    ASSERT_NEAR(after.at("target.0.weight")[i], m * old[i] + (1 - m) * online[i], 1e-15);
  const auto &queue = after.at("queue"), &earlier = before.at("queue");
  constexpr std::ptrdiff_t fresh = Images::count * Proof::width;
  EXPECT_TRUE(std::equal(queue.begin() + fresh, queue.end(), earlier.begin()));
  EXPECT_NE(queue[0], earlier[0]);
}

TEST(Objective, ResumesToTheBit) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("tessera_objective_{}", ::getpid());
  Training whole, first, second;
  for (int i = 0; i < 6; ++i) whole.step();
  for (int i = 0; i < 3; ++i) first.step();
  save_checkpoint(path, first.trainer, {});
  load_checkpoint(path, second.trainer, {});
  EXPECT_EQ(second.trainer.steps(), 3);
  EXPECT_EQ(second.tensors(), first.tensors());
  for (int i = 3; i < 6; ++i) second.step();
  EXPECT_EQ(second.tensors(), whole.tensors());
  std::filesystem::remove(path);
}

void expect_near(const Training<>& alone, const std::map<std::string, std::vector<double>>& tensors) {
  for (const auto& [name, expected] : alone.tensors())
    EXPECT_LE(relative_error(tensors.at(name).data(), expected), 1e-10) << name;
}

// Bits that ranks share but for BatchNorm's order of sums; the flat buffer has many buckets.
template <template <class, class> class Sharing>
void check_ranks(int ranks) {
  Training alone;
  std::vector<double> losses;
  for (int i = 0; i < 8; ++i) losses.push_back(alone.step());
  comm::run_threads(ranks, [&](comm::Threads& communicator) {
    Training<comm::Threads, Sharing> together(communicator.duplicate());
    for (const double loss : losses) EXPECT_NEAR(together.step(), loss, 1e-10);
    expect_near(alone, together.tensors());
  });
}

TEST(Objective, TrainsOnSeveralRanksAsOnOne) {
  for (const int ranks : {2, 3}) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    check_ranks<comm::Replicated>(ranks);
    check_ranks<comm::ZeroStage1>(ranks);
  }
}

// From a data set to features, by the same declaration.
TEST(Objective, RunsOnADataSet) {
  using Float = cpu::Backend<float>;
  const data::IdxDataset images = [] {
    const data::IdxDataset any = noise(24, 40, 40);
    data::Image unused;
    std::vector<std::uint8_t> pixels, labels;
    for (int i = 0; i < any.size(); ++i) {
      const auto view = any.decode(i, unused);
      pixels.insert(pixels.end(), view.pixels, view.pixels + view.size());
      labels.push_back(static_cast<std::uint8_t>(i % Proof::classes));
    }
    return data::IdxDataset(40, 40, std::move(pixels), std::move(labels));
  }();
  Recipe recipe;
  recipe.arch = "test";
  recipe.batch_size = 12;
  recipe.epochs = 3;
  recipe.warmup_epochs = 1;
  recipe.out = std::filesystem::temp_directory_path() / fmt::format("tessera_objective_run_{}", ::getpid());
  testing::internal::CaptureStdout();
  Float backend(2);
  WholeRun<Proof, Float> run(backend, recipe, images);
  EXPECT_TRUE(run());
  const FeatureSet features = features_of(run.trainer(), images, data::imagenet_normalization);
  testing::internal::GetCapturedStdout();
  EXPECT_EQ(features.rows, 24);
  EXPECT_EQ(features.width, Proof::width);
  std::filesystem::remove_all(recipe.out);
}

}  // namespace
}  // namespace tessera::test
