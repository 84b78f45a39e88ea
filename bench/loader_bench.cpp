// The loader of two views, in images per second (items_per_second; each image gives two views), and every operation on
// one RGB image of 224 x 224 pixels. The benchmarks of JPEG files read the folder TESSERA_BENCH_PICTURES, which
// bench/peer/pictures.py fills.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/data/augment.hpp"
#include "tessera/data/image_folder.hpp"
#include "tessera/data/jpeg.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/io/file.hpp"
#include "tessera/models/vit/embed.hpp"

namespace {

namespace ts = tessera;
using ts::data::Image;
using ts::data::ImageView;

// Random waves in every channel: as smooth as a photograph, with every brightness and colour.
Image picture(int height, int width, int channels, std::uint32_t number) {
  ts::Random random(1, ts::Purpose::test, 0, number);
  Image image;
  image.resize(height, width, channels);
  for (int c = 0; c < channels; ++c) {
    const float down = random.uniform(0.01f, 0.1f), right = random.uniform(0.01f, 0.1f), start = random.uniform(0, 6);
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        image.row(y)[x * channels + c] = static_cast<std::uint8_t>(
            127.5f + 100.0f * std::sin(down * static_cast<float>(y) + right * static_cast<float>(x) + start) +
            random.uniform(-25, 25));
  }
  return image;
}

class Pictures {
 public:
  Pictures(int count, int height, int width, int channels) {
    for (int i = 0; i < count; ++i) images_.push_back(picture(height, width, channels, static_cast<std::uint32_t>(i)));
  }
  [[nodiscard]] int size() const { return static_cast<int>(images_.size()); }
  [[nodiscard]] ImageView decode(int i, Image&) const { return images_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] int label(int i) const { return i % 10; }

 private:
  std::vector<Image> images_;
};

// Two views of every picture, as MoCo v3 has them.
template <class View, class Images>
void load(benchmark::State& state, const Images& pictures, int batch, bool decode_scaled = false) {
  ts::data::LoaderOptions options;
  options.batch = batch;
  options.decode_scaled = decode_scaled;
  const auto views = ts::data::moco_v3_views(0.08);
  options.views.assign(views.begin(), views.end());
  options.threads = static_cast<int>(state.range(0));
  ts::data::Loader loader(pictures, ts::data::Reads<ts::data::Crops<2, View>>{}, options);
  for (int i = 0; i <= options.prefetch; ++i) loader.next();  // what was made while nobody waited
  for (auto _ : state) benchmark::DoNotOptimize(loader.next().crops[0].data());
  state.SetItemsProcessed(state.iterations() * batch);
}

void loader_grey28(benchmark::State& state) {
  static const Pictures pictures(4096, 28, 28, 1);
  load<ts::image<28, 1>>(state, pictures, 256);
}
BENCHMARK(loader_grey28)->ArgName("threads")->Arg(1)->Arg(2)->MinTime(2)->UseRealTime()->Unit(benchmark::kMillisecond);

void loader_rgb224(benchmark::State& state) {
  static const Pictures pictures(64, 301, 397, 3);
  load<ts::image<224>>(state, pictures, 16);
}
BENCHMARK(loader_rgb224)->ArgName("threads")->Arg(1)->Arg(2)->MinTime(4)->UseRealTime()->Unit(benchmark::kMillisecond);

// The folder TESSERA_BENCH_PICTURES; null, and the benchmark is left out, if it is not named.
const ts::data::ImageFolder* files(benchmark::State& state) {
  static const char* const path = std::getenv("TESSERA_BENCH_PICTURES");
  static const auto folder = path == nullptr ? nullptr : std::make_unique<const ts::data::ImageFolder>(path);
  if (folder == nullptr) state.SkipWithError("left out: TESSERA_BENCH_PICTURES names no folder of JPEG files");
  return folder.get();
}

void loader_jpeg(benchmark::State& state) {
  if (const auto* const folder = files(state)) load<ts::image<224>>(state, *folder, 64);
}
BENCHMARK(loader_jpeg)->ArgName("threads")->Arg(1)->Arg(2)->MinTime(8)->UseRealTime()->Unit(benchmark::kMillisecond);

// With and without LoaderOptions::decode_scaled, which is for larger files.
void loader_scaled(benchmark::State& state) {
  if (const auto* const folder = files(state)) load<ts::image<224>>(state, *folder, 8, state.range(1) == 1);
}
BENCHMARK(loader_scaled)
    ->ArgNames({"threads", "scaled"})
    ->Args({2, 0})
    ->Args({2, 1})
    ->MinTime(8)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// The distance of views of scaled images from those of whole ones, in units of 8-bit pixels, over the batches of one
// epoch: crops alone, and views of MoCo v3.
void scaled_difference(benchmark::State& state) {
  const auto* const folder = files(state);
  if (folder == nullptr) return;
  ts::data::LoaderOptions options;
  options.batch = 8;
  options.normalization = {{0, 0, 0}, {1 / 255.0f, 1 / 255.0f, 1 / 255.0f}};
  const auto views = ts::data::moco_v3_views(0.08);
  if (state.range(0) == 1) options.views.assign(views.begin(), views.end());
  ts::data::LoaderOptions scaled = options;
  scaled.decode_scaled = true;
  using TwoViews = ts::data::Reads<ts::data::Crops<2, ts::image<224>>>;
  double sum = 0, largest = 0, count = 0;
  for (auto _ : state) {
    ts::data::Loader whole(*folder, TwoViews{}, options), half(*folder, TwoViews{}, scaled);
    for (int batch = 0; batch < whole.iterations_per_epoch(); ++batch) {
      const auto &a = whole.next().crops[0], &b = half.next().crops[0];
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        sum += difference;
        largest = difference > largest ? difference : largest;
      }
      count += static_cast<double>(a.size());
    }
  }
  state.counters = {{"mean", sum / count}, {"largest", largest}};
}
BENCHMARK(scaled_difference)->ArgName("moco")->Arg(0)->Arg(1)->Iterations(1)->Unit(benchmark::kMillisecond);

// The work of one loader thread on an image of the folder, with microseconds of processor time of its parts.
void jpeg_parts(benchmark::State& state) {
  const auto* const folder = files(state);
  if (folder == nullptr) return;
  const auto views = ts::data::moco_v3_views(0.08);
  ts::data::AugmentScratch scratch;
  std::vector<float> values(ts::image<224>::values);
  double decode = 0, resize = 0, color = 0, blur = 0, rest = 0;
  std::clock_t start = 0;
  const auto lap = [&](double& part) {
    const std::clock_t now = std::clock();
    part += 1e6 * static_cast<double>(now - start) / CLOCKS_PER_SEC;
    start = now;
  };
  std::uint32_t drawn = 0;
  for (auto _ : state) {
    start = std::clock();
    const int sample = static_cast<int>(drawn) % folder->size();
    const ImageView image = folder->decode(sample, scratch.decoded);
    lap(decode);
    for (const auto& augmentation : views) {
      ts::Random random(1, ts::Purpose::view, 0, drawn++);
      const auto view = ts::data::draw_view(image.height, image.width, augmentation, random);
      Image& made = scratch.view;
      ts::data::crop_resize(image, view.crop, 224, 224, view.filter, scratch.resize, made);
      lap(resize);
      for (int step = 0; step < view.color_steps; ++step)
        ts::data::detail::apply(view.colors[static_cast<std::size_t>(step)], made);
      lap(color);
      if (view.blur_sigma > 0) ts::data::gaussian_blur(made, view.blur_sigma, scratch.blur);
      lap(blur);
      if (view.solarize) ts::data::solarize(made);
      if (view.flip) ts::data::flip_horizontally(made);
      ts::data::to_float(made, 3, ts::data::imagenet_normalization, values.data());
      benchmark::DoNotOptimize(values.data());
      lap(rest);
    }
  }
  const auto each = [&](double total) { return benchmark::Counter(total, benchmark::Counter::kAvgIterations); };
  state.counters = {{"decode", each(decode)},
                    {"resize", each(resize)},
                    {"color", each(color)},
                    {"blur", each(blur)},
                    {"rest", each(rest)}};
}
BENCHMARK(jpeg_parts)->MinTime(4)->Unit(benchmark::kMicrosecond);

void decode_jpeg(benchmark::State& state) {
  const auto* const folder = files(state);
  if (folder == nullptr) return;
  const std::string path = std::string(std::getenv("TESSERA_BENCH_PICTURES")) + "/" + folder->name(0);
  const std::string file = ts::io::read_file(path, 1 << 30);
  Image image;
  for (auto _ : state) {
    ts::data::decode_jpeg(std::as_bytes(std::span(file)), path, image);
    benchmark::DoNotOptimize(image.pixels.data());
  }
}
BENCHMARK(decode_jpeg)->Unit(benchmark::kMicrosecond);

// operation(image) on a fresh copy each time.
template <class Operation>
void each(benchmark::State& state, Operation operation) {
  const Image original = picture(224, 224, 3, 0);
  Image image = original;
  for (auto _ : state) {
    image.pixels = original.pixels;
    operation(image);
    benchmark::DoNotOptimize(image.pixels.data());
  }
}

// A crop of 237 x 290 pixels: close to the mean area of a view's.
void crop_resize(benchmark::State& state) {
  const Image source = picture(301, 397, 3, 0);
  ts::data::ResizeScratch scratch;
  Image view;
  for (auto _ : state) {
    ts::data::crop_resize(source, {31, 40, 237, 290}, 224, 224, ts::data::Filter::bilinear, scratch, view);
    benchmark::DoNotOptimize(view.pixels.data());
  }
}

void gaussian_blur(benchmark::State& state) {
  ts::data::BlurScratch scratch;
  each(state, [&](Image& image) { ts::data::gaussian_blur(image, 1.3f, scratch); });
}

void to_float(benchmark::State& state) {
  const Image image = picture(224, 224, 3, 0);
  std::vector<float> values(image.pixels.size());
  for (auto _ : state) {
    ts::data::to_float(image, 3, ts::data::imagenet_normalization, values.data());
    benchmark::DoNotOptimize(values.data());
  }
}

void random_view(benchmark::State& state) {
  const Image source = picture(301, 397, 3, 0);
  const auto views = ts::data::moco_v3_views(0.08);
  ts::data::AugmentScratch scratch;
  std::uint32_t sample = 0;
  for (auto _ : state) {
    ts::Random random(1, ts::Purpose::view, 0, sample++);
    const auto& augmentation = views[static_cast<std::size_t>(state.range(0) - 1)];
    benchmark::DoNotOptimize(ts::data::random_view(source, augmentation, 224, random, scratch).pixels.data());
  }
}

constexpr auto microseconds = benchmark::kMicrosecond;
BENCHMARK_CAPTURE(each, adjust_brightness, [](Image& image) { ts::data::adjust_brightness(image, 1.3f); })
    ->Name("adjust_brightness")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, adjust_contrast, [](Image& image) { ts::data::adjust_contrast(image, 1.3f); })
    ->Name("adjust_contrast")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, adjust_saturation, [](Image& image) { ts::data::adjust_saturation(image, 1.1f); })
    ->Name("adjust_saturation")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, adjust_hue, [](Image& image) { ts::data::adjust_hue(image, 0.07f); })
    ->Name("adjust_hue")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, to_grayscale, [](Image& image) { ts::data::to_grayscale(image); })
    ->Name("to_grayscale")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, solarize, [](Image& image) { ts::data::solarize(image); })
    ->Name("solarize")
    ->Unit(microseconds);
BENCHMARK_CAPTURE(each, flip, [](Image& image) { ts::data::flip_horizontally(image); })
    ->Name("flip")
    ->Unit(microseconds);
BENCHMARK(crop_resize)->Unit(microseconds);
BENCHMARK(gaussian_blur)->Unit(microseconds);
BENCHMARK(to_float)->Unit(microseconds);
BENCHMARK(random_view)->ArgName("view")->Arg(1)->Arg(2)->Unit(microseconds);

}  // namespace
