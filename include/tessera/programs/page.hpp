// A self-contained HTML page: facts, charts, pictures. Needs libpng (tessera::programs).
#pragma once

#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// Points joined by a line.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

// A horizontal line for comparison.
struct Reference {
  std::string name;
  double value;
};

struct Chart {
  std::string title, x_label;
  std::vector<Series> series;
  std::vector<Reference> references;
  bool logarithmic = false;
};

// An 8-bit picture, grey (1 channel) or RGB (3), rows of interleaved channels, with a caption; `mark` colours its
// frame.
struct Picture {
  enum class Mark { none, good, bad };
  int height = 0, width = 0, channels = 1;
  std::vector<std::uint8_t> pixels;
  std::string caption;
  Mark mark = Mark::none;
};

// Rows of pictures; the first of each row stands apart.
struct Gallery {
  std::string title, text;  // an empty title is left out
  std::vector<std::vector<Picture>> rows;
};

struct Page {
  std::string title, subtitle;
  std::string warning;  // stands out above all else; empty: there is none
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<Chart> charts;
  std::vector<Gallery> galleries;
};

namespace detail {

[[nodiscard]] inline std::string escape(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if (letter == '&')
      out += "&amp;";
    else if (letter == '<')
      out += "&lt;";
    else if (letter == '>')
      out += "&gt;";
    else if (letter == '"')
      out += "&quot;";
    else
      out += letter;
  }
  return out;
}

[[nodiscard]] inline std::string base64(const std::vector<std::uint8_t>& bytes) {
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i < 3 ? bytes.size() - i : 3;
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < left ? bytes[i + k] : 0u);
    for (std::size_t k = 0; k < 4; ++k) out += k <= left ? letters[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

[[nodiscard]] inline std::vector<std::uint8_t> png(const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = picture.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::vector<std::uint8_t> bytes(size);
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.pixels.data(), 0, nullptr) == 0)
    fail("a picture of {} x {} pixels could not be encoded: {}", picture.height, picture.width, image.message);
  bytes.resize(size);
  return bytes;
}

// 0.0123 -> "0.0123", 12000 -> "12k", 1e-6 -> "1e-06".
[[nodiscard]] inline std::string tick_text(double value) {
  if (value != 0 && (std::abs(value) < 1e-3 || std::abs(value) >= 1e5)) return fmt::format("{:.0e}", value);
  return fmt::format("{:.4g}", value);
}

// Round values that cover [low, high] in about five steps.
[[nodiscard]] inline std::vector<double> ticks(double low, double high) {
  const double rough = (high - low) / 4, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double share = rough / power, step = power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
  std::vector<double> values;
  for (double value = std::ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step)
    values.push_back(std::abs(value) < step * 1e-9 ? 0 : value);
  return values;
}

// Logarithms of the 1, 2 and 5 of each power of ten in [low, high], which are logarithms too; evenly spaced values
// where that leaves too few or too many.
[[nodiscard]] inline std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> values;
  for (double power = std::floor(low); power <= high && values.size() < 9; ++power)
    for (const double digit : {1.0, 2.0, 5.0})
      if (const double value = power + std::log10(digit); value >= low && value <= high) values.push_back(value);
  return values.size() < 2 || values.size() > 8 ? ticks(low, high) : values;
}

// An SVG drawing of one chart.
class Plot {
 public:
  explicit Plot(const Chart& chart) : chart_(chart) {
    for (const Series& series : chart.series)
      for (const auto& [x, y] : series.points) include(x, y);
    for (const Reference& reference : chart.references) include(low_x_, reference.value);
    if (!(low_x_ < high_x_)) high_x_ = low_x_ + 1;
    if (!(low_y_ < high_y_)) high_y_ = low_y_ + (low_y_ != 0 ? std::abs(low_y_) * 0.1 : 1);
    const double margin = (high_y_ - low_y_) * 0.06;
    low_y_ -= margin;
    high_y_ += margin;
  }

  [[nodiscard]] std::string svg() const {
    std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\">", width, height);
    axes(out);
    for (const Reference& reference : chart_.references) {
      const double y = at_y(value_of(reference.value));
      out += fmt::format("<line class=\"ref\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", left, width - right,
                         y, y);
      out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{} {}</text>",
                         width - right - 4, y - 5, escape(reference.name), tick_text(reference.value));
    }
    int number = 0;
    for (const Series& series : chart_.series) line(out, series, number++);
    return out + "</svg>";
  }

 private:
  static constexpr int width = 560, height = 300, left = 62, right = 14, top = 26, bottom = 40;

  [[nodiscard]] double value_of(double y) const { return chart_.logarithmic ? std::log10(y > 1e-300 ? y : 1e-300) : y; }
  void include(double x, double y) {
    const double value = value_of(y);
    if (!std::isfinite(value)) return;
    low_x_ = x < low_x_ ? x : low_x_;
    high_x_ = x > high_x_ ? x : high_x_;
    low_y_ = value < low_y_ ? value : low_y_;
    high_y_ = value > high_y_ ? value : high_y_;
  }
  [[nodiscard]] double at_x(double x) const {
    return left + (x - low_x_) / (high_x_ - low_x_) * (width - left - right);
  }
  [[nodiscard]] double at_y(double value) const {
    return height - bottom - (value - low_y_) / (high_y_ - low_y_) * (height - top - bottom);
  }

  void axes(std::string& out) const {
    for (const double value : chart_.logarithmic ? logarithmic_ticks(low_y_, high_y_) : ticks(low_y_, high_y_)) {
      out += fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", left, width - right,
                         at_y(value), at_y(value));
      out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", left - 7,
                         at_y(value) + 4, tick_text(chart_.logarithmic ? std::pow(10.0, value) : value));
    }
    for (const double value : ticks(low_x_, high_x_))
      out += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", at_x(value),
                         height - bottom + 18, tick_text(value));
    out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                       (left + width - right) / 2, height - 5, escape(chart_.x_label));
    out += fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>", left, width - right,
                       height - bottom, height - bottom);
  }

  void line(std::string& out, const Series& series, int number) const {
    std::string points, dots;
    for (const auto& [x, y] : series.points) {
      const double value = value_of(y);
      if (!std::isfinite(value)) continue;
      points += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(value));
      if (series.points.size() <= 60)
        dots += fmt::format(
            "<circle class=\"dot s{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\"><title>{} {}: {:.6g}</title></circle>",
            number, at_x(x), at_y(value), escape(chart_.x_label), tick_text(x), y);
    }
    out += fmt::format("<polyline class=\"line s{}\" points=\"{}\"><title>{}</title></polyline>{}", number, points,
                       escape(series.name), dots);
    if (chart_.series.size() < 2) return;
    const int x = left + 8 + number * 150;
    out += fmt::format("<line class=\"line s{}\" x1=\"{}\" x2=\"{}\" y1=\"12\" y2=\"12\"/>", number, x, x + 18);
    out += fmt::format("<text class=\"tick\" x=\"{}\" y=\"16\">{}</text>", x + 24, escape(series.name));
  }

  const Chart& chart_;
  double low_x_ = HUGE_VAL, high_x_ = -HUGE_VAL, low_y_ = HUGE_VAL, high_y_ = -HUGE_VAL;
};

inline constexpr std::string_view style = R"css(
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5c6670;--line:#dfe3e8;--paper:#fff;--page:#f5f6f8;--a:#2563c9;--b:#d9692a;--good:#2e9e5b;--bad:#d0453e}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa4ae;--line:#343b43;--paper:#1d2127;--page:#14171b;--a:#6fa5ff;--b:#f2955a;--good:#4cc38a;--bad:#f0716a}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:36px 24px 60px}h1{font-size:27px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:40px 0 4px}
p{color:var(--soft);margin:4px 0 16px;max-width:75ch}.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));background:var(--paper);border:1px solid var(--line);border-radius:8px;overflow:hidden;margin:22px 0 30px}
.facts div{box-shadow:1px 1px 0 var(--line);padding:10px 14px}.facts b{display:block;font-size:17px;font-weight:600}.facts span{color:var(--soft);font-size:13px}
.warning{color:var(--ink);border-left:4px solid var(--bad);padding:2px 0 2px 12px;margin:16px 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}figure{margin:0;background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:14px 14px 6px}figcaption{font-weight:600;margin:0 4px 4px}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}.axis{stroke:var(--soft)}.tick{fill:var(--soft);font-size:12px}.line{fill:none;stroke-width:2;stroke-linejoin:round}.s0{stroke:var(--a)}.s1{stroke:var(--b)}.dot{stroke:none}.dot.s0{fill:var(--a)}.dot.s1{fill:var(--b)}.ref{stroke:var(--soft);stroke-dasharray:5 4}
.row{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 12px}.pic{width:84px;font-size:11.5px;color:var(--soft);text-align:center;line-height:1.3;overflow-wrap:anywhere}.pic:first-child{margin-right:16px}
.pic img{width:84px;height:84px;border-radius:5px;border:3px solid var(--line);display:block;object-fit:cover}.pic.small img{image-rendering:pixelated}.pic.good img{border-color:var(--good)}.pic.bad img{border-color:var(--bad)}
)css";

[[nodiscard]] inline std::string picture_html(const Picture& picture) {
  const char* const mark = picture.mark == Picture::Mark::good  ? " good"
                           : picture.mark == Picture::Mark::bad ? " bad"
                                                                : "";
  return fmt::format("<div class=\"pic{}{}\"><img alt=\"{}\" src=\"data:image/png;base64,{}\">{}</div>", mark,
                     picture.width < 64 ? " small" : "", escape(picture.caption), base64(png(picture)),
                     escape(picture.caption));
}

}  // namespace detail

// The page as text.
[[nodiscard]] inline std::string page_html(const Page& page) {
  std::string out = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{}</style></head><body><main>"
      "<h1>{}</h1><p>{}</p>",
      detail::escape(page.title), detail::style, detail::escape(page.title), detail::escape(page.subtitle));
  if (!page.warning.empty()) out += fmt::format("<p class=\"warning\">{}</p>", detail::escape(page.warning));
  if (!page.facts.empty()) {
    out += "<div class=\"facts\">";
    for (const auto& [name, value] : page.facts)
      out += fmt::format("<div><b>{}</b><span>{}</span></div>", detail::escape(value), detail::escape(name));
    out += "</div>";
  }
  out += "<div class=\"charts\">";
  for (const Chart& chart : page.charts)
    out += fmt::format("<figure><figcaption>{}</figcaption>{}</figure>", detail::escape(chart.title),
                       detail::Plot(chart).svg());
  out += "</div>";
  for (const Gallery& gallery : page.galleries) {
    if (!gallery.title.empty()) out += fmt::format("<h2>{}</h2>", detail::escape(gallery.title));
    out += fmt::format("<p>{}</p>", detail::escape(gallery.text));
    for (const auto& row : gallery.rows) {
      out += "<div class=\"row\">";
      for (const Picture& picture : row) out += detail::picture_html(picture);
      out += "</div>";
    }
  }
  return out + "</main></body></html>\n";
}

// Writes the page, atomically.
inline void write_page(const std::filesystem::path& path, const Page& page) {
  io::replace_file(path, page_html(page));
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
