#include "tessera/cpu/backend.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

// AddressSanitizer stops the program at a request that no machine can fulfil, unless told otherwise.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

namespace tessera::test {
namespace {

TEST(Memory, IsAlignedRoundedUpAndZero) {
  for (const index bytes : {1, 255, 256, 257, 100000}) {
    std::vector<std::byte> dirt(static_cast<std::size_t>(bytes), std::byte{0xff});  // likely to be handed out again
    std::vector<std::byte>().swap(dirt);
    const cpu::Memory memory(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % alignment, 0u);
    EXPECT_EQ(memory.size(), divide_up(bytes, 256) * 256);
    EXPECT_EQ(std::count(memory.data(), memory.data() + memory.size(), std::byte{0}), memory.size());
  }
  EXPECT_EQ(cpu::Memory().data(), nullptr);
}

TEST(Memory, SaysHowMuchIsMissing) {
  EXPECT_THAT([] { cpu::Memory memory(index{1} << 60); },
              testing::ThrowsMessage<Error>("not enough memory: 1073741824.0 GiB in one piece are needed; a smaller "
                                            "batch or model needs less"));
}

TEST(Buffer, IsAlignedAndZero) {
  const cpu::Buffer<double> buffer(37);
  EXPECT_EQ(buffer.size(), 37);
  EXPECT_EQ(buffer.span().size(), 37u);
  EXPECT_EQ(buffer.span().data(), buffer.data());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % alignment, 0u);
  for (const double value : buffer.span()) EXPECT_EQ(value, 0);
  EXPECT_EQ(cpu::Buffer<float>().data(), nullptr);
}

TEST(Backend, PlansUntilItsArenaIsCommitted) {
  cpu::Backend<float> backend(3);
  EXPECT_EQ(backend.pool().threads(), 3);
  EXPECT_TRUE(backend.planning());
  backend.arena().commit();
  EXPECT_FALSE(backend.planning());
}

TEST(Backend, ComputesNothingWhilePlanning) {
  cpu::Backend<float> backend(3);
  std::atomic<int> calls = 0;
  const auto run = [&] {
    backend.compute([&] { ++calls; });
    backend.for_pieces(2, 1, [&](index, index, int) { ++calls; });
    cpu::for_rows(backend, 2, 8192, [&](index) { ++calls; });
  };
  run();
  EXPECT_EQ(calls, 0);
  backend.arena().commit();
  run();
  EXPECT_EQ(calls, 5);
}

TEST(ForRows, VisitsEveryRowOnceInPiecesOfTheFirstCache) {
  EXPECT_EQ(cpu::row_grain(1), 8192);
  EXPECT_EQ(cpu::row_grain(100), 81);
  EXPECT_EQ(cpu::row_grain(100000), 1);
  cpu::Backend<float> backend(3);
  backend.arena().commit();
  for (const index rows : {0, 1, 81, 82, 1000}) {
    std::vector<int> visits(static_cast<std::size_t>(rows));
    cpu::for_rows(backend, rows, 100, [&](index row) { ++visits[static_cast<std::size_t>(row)]; });
    EXPECT_THAT(visits, testing::Each(1)) << rows << " rows";
  }
}

}  // namespace
}  // namespace tessera::test
