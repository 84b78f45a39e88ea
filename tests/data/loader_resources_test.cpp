#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "tessera/data/loader.hpp"
#include "tessera/models/vit/embed.hpp"

namespace tessera::test {
namespace {

struct GreyImages {
  std::vector<std::uint8_t> pixels = std::vector<std::uint8_t>(64);
  [[nodiscard]] static int size() { return 47; }
  [[nodiscard]] data::ImageView decode(int, data::Image&) const { return {pixels.data(), 8, 8, 1}; }
};

// With room for the stacks of a few threads only, in a process of its own.
TEST(LoaderResources, AThreadThatCannotStartIsAnException) {
  const GreyImages images;
  data::LoaderOptions options;
  options.batch = 10;
  options.threads = 4096;
  const auto construct = [&] {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t size = static_cast<rlim_t>(pages) * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + (rlim_t{1} << 27);
    const rlimit limit{size, size};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    try {
      data::Loader loader(images, data::Reads<data::Crops<2, image<8, 1>>>{}, options);
    } catch (const Error&) {
      return 0;
    }
    return 2;
  };
  EXPECT_EXIT(std::_Exit(construct()), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tessera::test
