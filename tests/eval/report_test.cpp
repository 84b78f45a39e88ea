#include "tessera/eval/report.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera::test {
namespace {

TEST(Report, EscapesTextAndNeedsNothingFromElsewhere) {
  eval::Report report;
  report.title = "<script>alert(1)</script> & \"quotes\"";
  report.facts = {{"<b>", "&"}};
  report.charts = {{"Loss", "epoch", {{"a", {{0, 1}, {1, std::nan("")}, {2, 3}}}, {"b", {}}}, {{"line", 2}}, false},
                   {"Empty", "epoch", {}, {}, true},
                   {"One", "epoch", {{"a", {{0, 0}}}}, {}, false}};
  report.galleries = {{"Pictures", "", {{{2, 2, 1, {0, 80, 160, 255}, "<x>", eval::Picture::Mark::good}}}}};
  const std::string html = eval::report_html(report);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("http"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos);
  EXPECT_EQ(html.find("inf"), std::string::npos);
  EXPECT_NE(html.find("data:image/png;base64,iVBOR"), std::string::npos);
  const auto count = [&](const std::string& text) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = html.find(text, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  for (const char* tag : {"div", "svg", "figure", "text", "main", "p"})
    EXPECT_EQ(count(std::string("<") + tag + " ") + count(std::string("<") + tag + ">"),
              count(std::string("</") + tag + ">"))
        << tag;
}

TEST(Report, TicksAreRoundNumbers) {
  eval::Report report;
  report.charts = {{"Norm", "step", {{"a", {{0, 0.06}, {100, 0.41}}}}, {}, true}};
  const std::string html = eval::report_html(report);
  for (const char* label : {">0.1<", ">0.2<", ">0<", ">20<", ">100<"})
    EXPECT_NE(html.find(label), std::string::npos) << label;
  EXPECT_EQ(html.find(">0.1585<"), std::string::npos);
}

}  // namespace
}  // namespace tessera::test
