#include "tessera/cuda/lane.hpp"

#include "cuda/collectives.hpp"

namespace tessera::test {
namespace {

__global__ void affine_kernel(int count, float factor, float term, const float* from, float* to) {
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (at < count) to[at] = factor * from[at] + term;
}

// A backend whose plan is made, a lane, and buffers between which both work.
struct Two {
  static constexpr int count = 1000;

  RankBackend backend;
  RankLane lane{backend};
  cuda::Buffer<float> a{count}, b{count}, c{count}, d{count};

  Two() { make_plan(backend); }

  // to = factor from + 1.
  void compute(float factor, const cuda::Buffer<float>& from, const cuda::Buffer<float>& to) {
    cuda::launch(backend, cuda::blocks_for(count, 256), 256, 0, affine_kernel, count, factor, 1.0f,
                 static_cast<const float*>(from.data()), to.data());
  }
  void copy(cudaStream_t stream, const cuda::Buffer<float>& from, const cuda::Buffer<float>& to) {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), count * sizeof(float), cudaMemcpyDeviceToDevice, stream),
                "cudaMemcpyAsync");
  }
  void copy_beside(const cuda::Buffer<float>& from, const cuda::Buffer<float>& to) {
    lane.start([&](auto& beside) { copy(beside.stream(), from, to); });
  }

  // d = 3 (2 a + 1) + 1 by way of the lane, twice: every step needs the one before.
  void work() {
    compute(2, a, b);
    copy_beside(b, c);
    lane.join();
    compute(3, c, b);
    copy_beside(b, d);
    lane.join();
    compute(0, c, b);  // after the copy: its source is no longer needed
  }
  void set(float value) { backend.upload(count, std::vector<float>(count, value).data(), a.data()); }
  [[nodiscard]] std::vector<float> result() {
    std::vector<float> values(count);
    backend.download(count, static_cast<const float*>(d.data()), values.data());
    return values;
  }
};

class DeviceLane : public DeviceTest<float> {};

std::vector<float> all(float value) {
  return std::vector<float>(Two::count, value);
}

TEST_F(DeviceLane, WorksBetweenStartAndJoin) {
  in_all_orders([] {
    Two two;
    two.set(5);
    two.work();
    EXPECT_EQ(two.result(), all(34));
  });
}

TEST_F(DeviceLane, IsRecordedWithTheBackend) {
  in_all_orders([] {
    Two two;
    cuda::Recording recording;
    for (float value = 1; value < 4; ++value) {
      two.set(value);
      two.backend.replay(recording, [&] { two.work(); });
      EXPECT_EQ(two.result(), all(6 * value + 4));
    }
  });
}

// What the backend is given after the start does not wait for the lane.
TEST_F(DeviceLane, KeepsTheOrderOfSeveralStarts) {
  in_all_orders([] {
    Two two;
    two.set(2);
    two.copy_beside(two.a, two.b);
    two.copy_beside(two.b, two.d);
    two.compute(0, two.c, two.c);
    two.lane.join();
    EXPECT_EQ(two.result(), all(2));
  });
}

TEST_F(DeviceLane, JoinsABodyThatThrows) {
  in_all_orders([] {
    Two two;
    two.set(7);
    const auto failing = [&](auto& beside) {
      two.copy(beside.stream(), two.a, two.d);
      throw Error("the body's");
    };
    EXPECT_THROW(two.lane.start(failing), Error);
    EXPECT_EQ(two.result(), all(7));
  });
}

TEST_F(DeviceLane, WorksAfterARecordingThatFailed) {
  Two two;
  cuda::Recording recording;
  const auto failing = [&] {
    two.copy_beside(two.a, two.b);
    throw Error("the step's");
  };
  EXPECT_THROW(two.backend.replay(recording, failing), Error);
  EXPECT_TRUE(recording.empty());
  two.set(7);
  two.backend.replay(recording, [&] { two.work(); });
  EXPECT_EQ(two.result(), all(46));
}

TEST_F(DeviceLane, OrdersNothingWhilePlanning) {
  RankBackend backend;
  RankLane lane(backend);
  static_cast<void>(backend.arena().take<float>(1));
  bool planning = false;
  lane.start([&](auto& beside) { planning = beside.planning(); });
  lane.join();
  EXPECT_TRUE(planning);
  backend.arena().commit();
  lane.start([&](auto& beside) { planning = beside.planning(); });
  lane.join();
  lane.wait();
  EXPECT_FALSE(planning);
}

}  // namespace
}  // namespace tessera::test
