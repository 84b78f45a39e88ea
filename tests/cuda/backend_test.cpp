#include "tessera/cuda/backend.hpp"

#include <gmock/gmock.h>

#include "cuda/operation.hpp"

namespace tessera::test {
namespace {

class DeviceBackend : public DeviceTest<float> {};

auto says(const char* part) {
  return testing::ThrowsMessage<Error>(testing::HasSubstr(part));
}

TEST_F(DeviceBackend, CopiesThereAndBack) {
  cuda::Backend<float> backend;
  const cuda::Buffer<float> a(1000), b(1000);
  std::vector<float> values(1000), back(1000, -1.0f);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  backend.download(1000, a.data(), back.data());
  EXPECT_EQ(back, std::vector<float>(1000, 0.0f));
  backend.upload(1000, values.data(), a.data());
  static_cast<void>(backend.arena().take<float>(1));
  backend.copy(1000, static_cast<const float*>(a.data()), b.data());
  backend.download(1000, b.data(), back.data());
  EXPECT_EQ(back, std::vector<float>(1000, 0.0f)) << "while planning, nothing is copied";
  backend.arena().commit();
  backend.copy(1000, static_cast<const float*>(a.data()), b.data());
  backend.download(1000, b.data(), back.data());
  EXPECT_EQ(back, values);
  backend.clear(1000, b.data());
  backend.download(1000, b.data(), back.data());
  EXPECT_EQ(back, std::vector<float>(1000, 0.0f));
}

TEST_F(DeviceBackend, ReplaysWhatItRecorded) {
  cuda::Backend<float> backend;
  static_cast<void>(backend.arena().take<float>(1));
  backend.arena().commit();
  const cuda::Buffer<float> from(4), to(4);
  cuda::Recording recording;
  int recorded = 0;
  for (float value = 1; value < 4; ++value) {
    const std::vector<float> values(4, value);
    backend.upload(4, values.data(), from.data());
    backend.replay(recording, [&] {
      ++recorded;
      backend.copy(4, static_cast<const float*>(from.data()), to.data());
    });
    std::vector<float> back(4);
    backend.download(4, to.data(), back.data());
    EXPECT_EQ(back, values);
  }
  EXPECT_EQ(recorded, 1);
}

TEST_F(DeviceBackend, RefusesANumberThatNoDeviceHas) {
  EXPECT_THAT([] { cuda::Backend<float> backend(999); }, says("no CUDA device 999"));
}

#if defined(TESSERA_EMULATION)

// Puts the machine back in order.
struct Mended {
  ~Mended() { emulation::machine = {}; }
};

TEST_F(DeviceBackend, SaysWhyThereIsNoDevice) {
  const Mended mended;
  const auto open = [] { cuda::Backend<float> backend; };
  emulation::machine.presence = cudaErrorNoDevice;
  EXPECT_THAT(open, says("there is no CUDA device on this machine"));
  emulation::machine.presence = cudaErrorInsufficientDriver;
  emulation::machine.driver = 0;
  EXPECT_THAT(open, says("there is no CUDA driver on this machine"));
  emulation::machine.driver = 12040;
  EXPECT_THAT(open, says("the CUDA driver is too old: it supports CUDA 12.4"));
  emulation::machine.presence = cudaSuccess;
  emulation::machine.capability = 75;
  EXPECT_THAT(open, says("compute capability 7.5, but bf16 matrix instructions need 8.0"));
}

TEST_F(DeviceBackend, SaysHowMuchMemoryIsMissing) {
  const Mended mended;
  emulation::machine.memory = std::size_t{1} << 20;
  EXPECT_THAT([] { cuda::Buffer<float> buffer(index{1} << 30); },
              testing::ThrowsMessage<OutOfMemory>(testing::HasSubstr("4.0 GiB in one piece are needed, ")));
  EXPECT_THROW(cuda::check(cudaErrorMemoryAllocation, "cudaMallocHost"), OutOfMemory);
  EXPECT_THROW(cuda::check(CUBLAS_STATUS_ALLOC_FAILED, "cublasLtCreate"), OutOfMemory);
}

TEST_F(DeviceBackend, SaysThatAKernelFailed) {
  const Mended mended;
  const cuda::Backend<float> backend;
  emulation::machine.sticky = cudaErrorIllegalAddress;
  EXPECT_THAT([&] { backend.wait(); },
              testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr("cudaErrorIllegalAddress"),
                                                           testing::HasSubstr("continue from the last checkpoint"))));
}

#endif

}  // namespace
}  // namespace tessera::test
