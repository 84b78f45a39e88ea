// Views of an image: random ones for training (docs/method.md, 3.1, 3.2 and 3.8) and that of evaluation (3.7).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/blur.hpp"
#include "tessera/data/color.hpp"
#include "tessera/data/image.hpp"
#include "tessera/data/resize.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The augmentation of one view. An operation of strength or probability 0 is left out.
struct ViewAugmentation {
  double crop_min = 0.08, crop_max = 1.0;               // area of the crop, as a fraction of the area of the image
  double ratio_min = 3.0 / 4.0, ratio_max = 4.0 / 3.0;  // width / height of the crop
  float jitter = 0.8f;                                  // probability of the colour jitter, whose strengths follow
  float brightness = 0.4f, contrast = 0.4f, saturation = 0.2f, hue = 0.1f;
  float grayscale = 0.2f;                                           // probability
  float blur = 1.0f, blur_sigma_min = 0.1f, blur_sigma_max = 2.0f;  // probability; sigma in pixels
  float solarize = 0.0f;                                            // probability
  float flip = 0.5f;                                                // probability
  Filter filter = Filter::bilinear;                                 // of the resize

  // Random crop and horizontal flip alone, as in supervised training, probes and MAE.
  [[nodiscard]] static constexpr ViewAugmentation crop_and_flip(double crop_min = 0.08,
                                                                Filter filter = Filter::bilinear) {
    ViewAugmentation view;
    view.crop_min = crop_min;
    view.jitter = view.grayscale = view.blur = 0;
    view.filter = filter;
    return view;
  }

  // The same without colour jitter and grayscale, for images of any number of channels.
  [[nodiscard]] constexpr ViewAugmentation without_colors() const {
    ViewAugmentation view = *this;
    view.jitter = view.grayscale = 0;
    return view;
  }

  // Throws Error if a view of so many channels cannot be made; the message names the augmentation as `name`.
  void check_channels(const std::string& name, int channels) const {
    if ((jitter > 0 || grayscale > 0) && channels != 1 && channels != 3)
      fail(
          "{0} has colour jitter with probability {1} and grayscale with probability {2}, which are for images of 1 "
          "channel or 3, not of {3}: set {0}.jitter and {0}.grayscale to 0, as ViewAugmentation::without_colors() does",
          name, jitter, grayscale, channels);
  }

  // Throws Error if a value is out of its range; the message names it as `name`.member.
  void check(const std::string& name) const {
    const auto fraction = [&](const char* member, double value) {
      if (!(value >= 0 && value <= 1)) fail("{}.{} must lie between 0 and 1, not {}", name, member, value);
    };
    const auto strength = [&](const char* member, double value) {
      if (!(value >= 0 && std::isfinite(value))) fail("{}.{} must not be negative, but is {}", name, member, value);
    };
    const auto range = [&](const char* member, double low, double high) {
      if (!(low > 0 && low <= high && std::isfinite(high)))
        fail("{0}.{1}_min and {0}.{1}_max must be positive and in this order, not {2} and {3}", name, member, low,
             high);
    };
    range("crop", crop_min, crop_max);
    fraction("crop_max", crop_max);
    range("ratio", ratio_min, ratio_max);
    fraction("jitter", jitter);
    strength("brightness", brightness);
    strength("contrast", contrast);
    strength("saturation", saturation);
    if (!(hue >= 0 && hue <= 0.5f)) fail("{}.hue must lie between 0 and 0.5, not {}", name, hue);
    fraction("grayscale", grayscale);
    fraction("blur", blur);
    range("blur_sigma", blur_sigma_min, blur_sigma_max);
    fraction("solarize", solarize);
    fraction("flip", flip);
  }
};

// The two views of MoCo v3 (docs/method.md, 3.1); crop_min is the smallest area of the crop, as a fraction.
[[nodiscard]] constexpr std::array<ViewAugmentation, 2> moco_v3_views(double crop_min) {
  ViewAugmentation first, second;
  first.crop_min = second.crop_min = crop_min;
  second.blur = 0.1f;
  second.solarize = 0.2f;
  return {first, second};
}

enum class ColorOperation : std::int32_t { brightness, contrast, saturation, hue, grayscale };

struct ColorStep {
  ColorOperation operation;
  float amount;  // the factor; the shift of the hue as a fraction of the circle; unused for grayscale
};

// The random choices of one view: plain numbers from which a host or a device makes the view.
struct ViewParameters {
  Box crop;
  std::array<ColorStep, 5> colors{};  // the first color_steps are applied, in this order
  std::int32_t color_steps = 0;
  float blur_sigma = 0;  // in pixels; 0: no blur
  bool solarize = false, flip = false;
  Filter filter = Filter::bilinear;

  void add(ColorStep step) { colors[static_cast<std::size_t>(color_steps++)] = step; }
};

// Scratch for views, one for each thread.
struct AugmentScratch {
  ResizeScratch resize;
  BlurScratch blur;
  Image decoded, view;
};

// A random crop within an image of height x width pixels, as torchvision's RandomResizedCrop: ten tries, then the
// largest centred crop of an allowed ratio (docs/method.md, 3.2).
[[nodiscard]] inline Box random_crop(int height, int width, const ViewAugmentation& a, Random& random) {
  const double area = static_cast<double>(height) * width;
  const float log_min = static_cast<float>(std::log(a.ratio_min)), log_max = static_cast<float>(std::log(a.ratio_max));
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target =
        area * static_cast<double>(random.uniform(static_cast<float>(a.crop_min), static_cast<float>(a.crop_max)));
    const double ratio = static_cast<double>(std::exp(random.uniform(log_min, log_max)));
    const int w = static_cast<int>(std::nearbyint(std::sqrt(target * ratio)));
    const int h = static_cast<int>(std::nearbyint(std::sqrt(target / ratio)));
    if (w <= 0 || w > width || h <= 0 || h > height) continue;
    const int top = static_cast<int>(random.below(static_cast<std::uint32_t>(height - h + 1)));
    const int left = static_cast<int>(random.below(static_cast<std::uint32_t>(width - w + 1)));
    return {top, left, h, w};
  }
  const double ratio = static_cast<double>(width) / height;
  int h = height, w = width;
  if (ratio < a.ratio_min) h = static_cast<int>(std::nearbyint(w / a.ratio_min));
  if (ratio > a.ratio_max) w = static_cast<int>(std::nearbyint(h * a.ratio_max));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

namespace detail {

// Draws the colour jitter: operations of strength > 0 in random order, each with a random amount (docs/method.md, 3.4).
inline void draw_color_jitter(const ViewAugmentation& a, Random& random, ViewParameters& view) {
  std::array<std::size_t, 4> order{0, 1, 2, 3};
  for (std::uint32_t last = 3; last > 0; --last) std::swap(order[last], order[random.below(last + 1)]);
  const auto factor = [&](float strength) { return random.uniform(strength < 1 ? 1 - strength : 0.0f, 1 + strength); };
  const float brightness = factor(a.brightness), contrast = factor(a.contrast), saturation = factor(a.saturation);
  const float hue = random.uniform(-a.hue, a.hue);
  const std::array<float, 4> strengths{a.brightness, a.contrast, a.saturation, a.hue};
  const std::array<ColorStep, 4> steps{{{ColorOperation::brightness, brightness},
                                        {ColorOperation::contrast, contrast},
                                        {ColorOperation::saturation, saturation},
                                        {ColorOperation::hue, hue}}};
  for (const std::size_t operation : order)
    if (strengths[operation] > 0) view.add(steps[operation]);
}

inline void apply(ColorStep step, Image& image) {
  switch (step.operation) {
    case ColorOperation::brightness:
      return adjust_brightness(image, step.amount);
    case ColorOperation::contrast:
      return adjust_contrast(image, step.amount);
    case ColorOperation::saturation:
      return adjust_saturation(image, step.amount);
    case ColorOperation::hue:
      return adjust_hue(image, step.amount);
    case ColorOperation::grayscale:
      return to_grayscale(image);
  }
}

}  // namespace detail

// Draws the random choices of a view of an image of height x width pixels (docs/method.md, 3.1).
[[nodiscard]] inline ViewParameters draw_view(int height, int width, const ViewAugmentation& a, Random& random) {
  ViewParameters view;
  view.filter = a.filter;
  view.crop = random_crop(height, width, a, random);
  if (a.jitter > 0 && random.uniform() <= a.jitter) detail::draw_color_jitter(a, random, view);
  if (a.grayscale > 0 && random.uniform() < a.grayscale) view.add({ColorOperation::grayscale, 0});
  if (a.blur > 0 && random.uniform() <= a.blur) view.blur_sigma = random.uniform(a.blur_sigma_min, a.blur_sigma_max);
  view.solarize = a.solarize > 0 && random.uniform() <= a.solarize;
  view.flip = a.flip > 0 && random.uniform() < a.flip;
  return view;
}

// Makes the view of size x size pixels with the choices `parameters`, in scratch.view.
inline const Image& apply_view(ImageView image, const ViewParameters& parameters, int size, AugmentScratch& scratch) {
  Image& view = scratch.view;
  crop_resize(image, parameters.crop, size, size, parameters.filter, scratch.resize, view);
  for (std::size_t step = 0; step < static_cast<std::size_t>(parameters.color_steps); ++step)
    detail::apply(parameters.colors[step], view);
  if (parameters.blur_sigma > 0) gaussian_blur(view, parameters.blur_sigma, scratch.blur);
  if (parameters.solarize) solarize(view);
  if (parameters.flip) flip_horizontally(view);
  return view;
}

// A random view of size x size pixels, in scratch.view.
inline const Image& random_view(ImageView image, const ViewAugmentation& a, int size, Random& random,
                                AugmentScratch& scratch) {
  return apply_view(image, draw_view(image.height, image.width, a, random), size, scratch);
}

// Makes the view of evaluation in scratch.view (docs/method.md, 3.7): the shorter side is resized to `resize` pixels,
// bilinear, and the centre of size x size pixels is cut out. resize must be at least size. An image of size x size
// pixels is taken as it is.
inline const Image& evaluation_view(ImageView image, int resize, int size, AugmentScratch& scratch) {
  Image& view = scratch.view;
  const bool wide = image.width > image.height;
  const int shorter = wide ? image.height : image.width, longer = wide ? image.width : image.height;
  Box box{0, 0, image.height, image.width};
  if (image.height == size && image.width == size) {
    crop_resize(image, box, size, size, Filter::bilinear, scratch.resize, view);
    return view;
  }
  const int scaled = shorter == resize ? longer : static_cast<int>(static_cast<double>(resize) * longer / shorter);
  Image whole;
  crop_resize(image, box, wide ? resize : scaled, wide ? scaled : resize, Filter::bilinear, scratch.resize, whole);
  box = {static_cast<int>(std::nearbyint((whole.height - size) / 2.0)),
         static_cast<int>(std::nearbyint((whole.width - size) / 2.0)), size, size};
  crop_resize(whole, box, size, size, Filter::bilinear, scratch.resize, view);
  return view;
}

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
