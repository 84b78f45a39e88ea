// The types that follow from what an objective reads.
#include "tessera/data/reads.hpp"

#include <gtest/gtest.h>

#include <array>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tessera/data/batch.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/models/vit/embed.hpp"

namespace tessera::test {
namespace {

using data::Crops, data::Labels, data::Reads;

using Pairs = Reads<Crops<2, image<224>>>;
static_assert(Pairs::groups == 1 && Pairs::crops == 2 && Pairs::channels == 3 && !Pairs::labels);
static_assert(std::is_same_v<Pairs::Group<0>, Crops<2, image<224>>>);

// Groups keep their order, wherever the labels are named.
static_assert(Reads<Crops<1, image<32>>, data::ClassLabels<10>>::labels);
static_assert(Reads<Crops<1, image<32>>, data::ClassLabels<10>>::classes == 10);
static_assert(Reads<Labels, Crops<1, image<32>>>::classes == 0);
using Many = Reads<Crops<2, image<224>>, Labels, Crops<6, image<96>>, Crops<1, image<28, 1>>>;
static_assert(Many::groups == 3 && Many::crops == 9 && Many::labels);
static_assert(Many::channels == 1, "where groups differ, images are grey");
static_assert(std::is_same_v<Many::Group<1>, Crops<6, image<96>>>);
static_assert(
    std::is_same_v<Many::Groups, std::tuple<Crops<2, image<224>>, Crops<6, image<96>>, Crops<1, image<28, 1>>>>);

static_assert(data::detail::is_reads<Many> && !data::detail::is_reads<Labels>);

struct Objective {
  using Reads = Many;
};
static_assert(std::is_same_v<decltype(data::reads<Objective>()), Many>);

// Of a batch: a matrix for each group.
using Batch = data::Batch<double, Many>;
static_assert(
    std::is_same_v<decltype(Batch::crops), std::tuple<Rows<const double, 3 * 224 * 224>,
                                                      Rows<const double, 3 * 96 * 96>, Rows<const double, 784>>>);

TEST(Batch, IsPlannedWithoutMemory) {
  const Batch batch = Batch::planned(5);
  EXPECT_EQ(batch.images(), 5);
  EXPECT_EQ(std::get<0>(batch.crops).rows, 10);
  EXPECT_EQ(std::get<1>(batch.crops).rows, 30);
  EXPECT_EQ(std::get<2>(batch.crops).rows, 5);
  for (const void* address : batch.addresses()) EXPECT_EQ(address, nullptr);
}

TEST(Batch, TellsAllItsAddresses) {
  const double values = 0;
  const int label = 0;
  Batch batch = Batch::planned(1), other = batch;
  std::get<1>(batch.crops).data = &values;
  EXPECT_NE(batch.addresses(), other.addresses());
  EXPECT_EQ(batch.addresses()[1], &values);
  other = Batch::planned(1);
  other.labels = &label;
  EXPECT_EQ(other.addresses()[3], &label);
}

TEST(Reads, CropsAreCountedOverAllGroups) {
  std::vector<std::array<int, 3>> visited;
  data::for_crops<Many>([&](auto group, int crop, int all) {
    visited.push_back({static_cast<int>(group), crop, all});
  });
  const std::vector<std::array<int, 3>> expected{{0, 0, 0}, {0, 1, 1}, {1, 0, 2}, {1, 1, 3}, {1, 2, 4},
                                                 {1, 3, 5}, {1, 4, 6}, {1, 5, 7}, {2, 0, 8}};
  EXPECT_EQ(visited, expected);
}

}  // namespace
}  // namespace tessera::test
