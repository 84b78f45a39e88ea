#include "tessera/data/source.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <tuple>
#include <vector>

#include "support/noise.hpp"
#include "support/operation.hpp"
#include "tessera/core/image.hpp"
#include "tessera/data/idx.hpp"

namespace tessera::test {
namespace {

using Reads = data::Reads<data::Crops<2, image<8, 1>>, data::Crops<1, image<5, 1>>, data::Labels>;

template <class Scalar>
class HostSource : public testing::Test {};
TYPED_TEST_SUITE(HostSource, Scalars);

// Four steps, into the second epoch.
TYPED_TEST(HostSource, GivesTheLoadersBatchesAsItsScalar) {
  using Sum = Accumulator<TypeParam>;
  const data::IdxDataset images = noise(30);
  data::LoaderOptions options;
  options.batch = 10;
  options.seed = 9;
  cpu::Backend<TypeParam> backend(1);
  data::HostSource<TypeParam, Reads, data::IdxDataset> source(backend, images, options);
  data::Loader loader(images, Reads{}, options);
  for (int step = 0; step < 4; ++step) {
    SCOPED_TRACE(step);
    const auto batch = source.next();
    const auto& made = loader.next();
    ASSERT_EQ(batch.images(), options.batch);
    data::for_crops<Reads>([&](auto group, int crop, int) {
      if (crop > 0) return;
      const auto& crops = std::get<group>(batch.crops);
      const std::vector<float>& expected = made.crops[group];
      ASSERT_EQ(crops.size(), static_cast<index>(expected.size()));
      for (std::size_t i = 0; i < expected.size(); ++i)
        ASSERT_EQ(static_cast<Sum>(crops.data[i]), static_cast<Sum>(static_cast<TypeParam>(expected[i])))
            << "value " << i << " of group " << group;
    });
    EXPECT_EQ(std::vector<int>(batch.labels, batch.labels + options.batch), made.labels);
    source.prepare();
  }
}

}  // namespace
}  // namespace tessera::test
