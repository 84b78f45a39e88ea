#include "tessera/programs/page.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera::test {
namespace {

TEST(Page, EscapesTextAndNeedsNothingFromElsewhere) {
  programs::Page page;
  page.title = "<script>alert(1)</script> & \"quotes\"";
  page.warning = "<script>";
  page.facts = {{"<b>", "&"}};
  page.charts = {{"Loss", "epoch", {{"a", {{0, 1}, {1, std::nan("")}, {2, 3}}}, {"b", {}}}, {{"line", 2}}, false},
                 {"Empty", "epoch", {}, {}, true},
                 {"One", "epoch", {{"a", {{0, 0}}}}, {}, false}};
  page.galleries = {{"Pictures", "", {{{2, 2, 1, {0, 80, 160, 255}, "<x>", programs::Picture::Mark::good}}}}};
  const std::string html = programs::page_html(page);
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

TEST(Page, TicksAreRoundNumbers) {
  programs::Page page;
  page.charts = {{"Norm", "step", {{"a", {{0, 0.06}, {100, 0.41}}}}, {}, true}};
  const std::string html = programs::page_html(page);
  for (const char* label : {">0.1<", ">0.2<", ">0<", ">20<", ">100<"})
    EXPECT_NE(html.find(label), std::string::npos) << label;
  EXPECT_EQ(html.find(">0.1585<"), std::string::npos);
}

}  // namespace
}  // namespace tessera::test
