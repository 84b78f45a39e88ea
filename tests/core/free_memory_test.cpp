#include "tessera/core/free_memory.hpp"

#include <gtest/gtest.h>

namespace tessera::test {
namespace {

TEST(FreeMemory, ReadsNumbersBehindKeysAtTheStartOfALine) {
  constexpr std::string_view text = "Peak:\t 7 kB\nVmSize:\t  120 kB\nNotVmSize: 3\nVmData: none\nLast: 9";
  EXPECT_EQ(detail::number_of("VmSize:", text), 120);
  EXPECT_EQ(detail::number_of("Last:", text), 9);
  EXPECT_FALSE(detail::number_of("VmData:", text));
  EXPECT_FALSE(detail::number_of("Size:", text));
  EXPECT_FALSE(detail::number_of("VmSize:", ""));
  EXPECT_FALSE(detail::number_of("VmSize:", "VmSize:"));
}

TEST(FreeMemory, OfAMachineIsWhatIsAvailableAndSwap) {
  EXPECT_EQ(detail::machine_has("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:   5 kB\nSwapFree: 2 kB\n"), 7 * 1024);
  EXPECT_EQ(detail::machine_has("MemAvailable: 5 kB\n"), 5 * 1024);
  EXPECT_EQ(detail::machine_has("MemFree: 5 kB\n"), no_memory_limit);
}

TEST(FreeMemory, OfAControlGroupCountsItsCacheAsFree) {
  EXPECT_EQ(detail::group_has("1000\n", "700\n", "anon 300\ninactive_file 200\nactive_file 100\nslab_reclaimable 50\n"),
            650);
  EXPECT_EQ(detail::group_has("1000\n", "700\n",
                              "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 100\n"),
            600);
  EXPECT_EQ(detail::group_has("1000\n", "1100\n", ""), 0);
  EXPECT_EQ(detail::group_has("1000\n", "100\n", "inactive_file 200\n"), 1000);
  EXPECT_EQ(detail::group_has("max\n", "700\n", ""), no_memory_limit);
  EXPECT_EQ(detail::group_has("", "", ""), no_memory_limit);
}

TEST(FreeMemory, FindsItsControlGroup) {
  constexpr std::string_view both = "5:cpu,cpuacct:/a\n4:memory:/jobs/7\n0::/user/x\n";
  EXPECT_EQ(detail::group_path(both, true), "/user/x");
  EXPECT_EQ(detail::group_path(both, false), "/jobs/7");
  EXPECT_EQ(detail::group_path("0::/", true), "/");
  EXPECT_FALSE(detail::group_path("0::/", false));
  EXPECT_FALSE(detail::group_path("", true));
  EXPECT_FALSE(detail::group_path("nonsense\n1:\n", true));
}

TEST(FreeMemory, OfThisMachineIsThere) {
  EXPECT_GT(free_memory(), 1 << 20);
  EXPECT_LE(free_memory(), no_memory_limit);
}

TEST(SmallFile, IsEmptyWhereThereIsNone) {
  EXPECT_EQ(detail::SmallFile("/no", "/such", "/file").text(), "");
  EXPECT_EQ(detail::SmallFile(std::string_view("/", 1), "proc").text(), "");
  EXPECT_TRUE(detail::number_of("VmSize:", detail::SmallFile("/proc", "/self", "/status").text()));
}

}  // namespace
}  // namespace tessera::test
