#include "tessera/eval/knn.hpp"

#include <gtest/gtest.h>

#include "support/fixture.hpp"
#include "tessera/eval/report.hpp"

namespace tessera::test {
namespace {

TEST(Knn, VotesEqualTheReference) {
  const Fixture fixture("objectives");
  const auto bank = fixture.values<double>("knn.train"), queries = fixture.values<double>("knn.query");
  const auto labels = fixture.values<int>("knn.labels");
  const index width = fixture.tensor("knn.train").shape[1];
  ThreadPool pool(2);
  const auto votes =
      eval::knn_votes(pool, eval::Features<double>{bank.data(), static_cast<index>(labels.size()), width}, labels,
                      eval::Features<double>{queries.data(), fixture.tensor("knn.query").shape[0], width},
                      static_cast<int>(fixture.number("knn_classes")),
                      {static_cast<int>(fixture.number("knn_k")), fixture.number("knn_tau")});
  expect_close("votes", votes.data(), fixture.tensor("knn.votes"));
}

TEST(Knn, EqualSimilaritiesAreTakenInOrder) {
  const std::vector<float> bank{1, 0, 0, 1, 2, 0, 3, 0}, query{1, 0};
  ThreadPool pool(1);
  const auto found =
      eval::nearest(pool, eval::Features<float>{bank.data(), 4, 2}, eval::Features<float>{query.data(), 1, 2}, 3);
  EXPECT_EQ(found[0].row, 0);
  EXPECT_EQ(found[1].row, 2);
  EXPECT_EQ(found[2].row, 3);
}

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

}  // namespace
}  // namespace tessera::test
