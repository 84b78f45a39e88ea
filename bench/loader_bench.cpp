// The loader of two views, in images per second (items_per_second; each image gives two views), and every operation on
// one RGB image of 224 x 224 pixels.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tessera/data/augment.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
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
template <class View>
void load(benchmark::State& state, const Pictures& pictures, int batch) {
  ts::data::LoaderOptions options;
  options.batch = batch;
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
