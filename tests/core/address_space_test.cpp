// What happens at the limit of the address space, which sanitizers need for themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tessera/cpu/backend.hpp"

namespace tessera::test {
namespace {

constexpr index mib = 1 << 20;

// The process may take `room` more bytes while this lives.
class Limit {
 public:
  explicit Limit(index room) {
    getrlimit(RLIMIT_AS, &before_);
    rlimit limit = before_;
    const auto used = detail::number_of("VmSize:", detail::SmallFile("/proc/self/status").text());
    limit.rlim_cur = static_cast<rlim_t>(used.value() * 1024 + room);
    setrlimit(RLIMIT_AS, &limit);
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
  ~Limit() { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

TEST(AddressSpace, IsWhatTheLimitLeaves) {
  const index free = free_memory();
  const Limit limit(40 * mib);
  EXPECT_LE(address_space_left(), 40 * mib);
  EXPECT_GT(address_space_left(), 39 * mib);
  EXPECT_LE(free_memory(), 40 * mib);
  EXPECT_GT(free, 40 * mib);
  EXPECT_LE(cpu::Backend<float>(1).free_bytes(), 40 * mib);
}

TEST(AddressSpace, HasRoomForSomeThreadsOnly) {
  const Limit limit(60 * mib);
  EXPECT_THAT([] { ThreadPool pool(200); },
              testing::ThrowsMessage<Error>("the pool cannot start 200 thread(s): Resource temporarily unavailable; "
                                            "fewer threads need less memory"));
}

#if TESSERA_HAS_ONEDNN
TEST(AddressSpace, IsCheckedBeforeOneDnnTakesIt) {
  cpu::Backend<float, cpu::OneDnnMatmul> backend(1);
  {
    const Limit limit(20 * mib);
    EXPECT_EQ(backend.free_bytes(), 0);
    EXPECT_THAT(
        [&] { backend.choose_products([] {}); },
        testing::ThrowsMessage<Error>(testing::HasSubstr("oneDNN takes 24.0 MiB for its first matrix products")));
  }
  backend.choose_products([] {});
  const Limit limit(20 * mib);
  EXPECT_GT(backend.free_bytes(), 0);
  backend.choose_products([] {});
}
#endif

}  // namespace
}  // namespace tessera::test
