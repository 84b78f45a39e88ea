// A step after planning takes nothing from the heap: every malloc of the process is counted. Libraries for matrix
// products take room for packed operands as they see fit, so the step runs with a product of the test's own.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <vector>

#include "support/training.hpp"
#include "tessera/comm/serial.hpp"
#include "tessera/comm/threads.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"
#include "tessera/optim/optimizer.hpp"

#if defined(__GLIBC__)

namespace {
std::atomic<long> allocations{0};
}

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  ++allocations;
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr;
}
}

namespace tessera::test {
namespace {

struct PlainMatmul {
  template <class Scalar>
  static constexpr bool supports = true;

  template <class Scalar>
  static void multiply(index m, index n, index k, cpu::Operand<Scalar> a, cpu::Operand<Scalar> b, Scalar* c,
                       index c_stride, bool accumulate) {
    const auto at = [](cpu::Operand<Scalar> x, index row, index column) {
      return x.transposed ? x.data[column * x.stride + row] : x.data[row * x.stride + column];
    };
    for (index i = 0; i < m; ++i)
      for (index j = 0; j < n; ++j) {
        Scalar sum = accumulate ? c[i * c_stride + j] : Scalar(0);
        for (index l = 0; l < k; ++l) sum += at(a, i, l) * at(b, l, j);
        c[i * c_stride + j] = sum;
      }
  }
};

template <class Encoder, class Rule, class Backend = cpu::Backend<float, PlainMatmul>, class Communicator,
          template <class, class> class Sharing = comm::Replicated>
long allocations_of_three_steps(Communicator& communicator) {
  using Scalar = typename Backend::Scalar;
  using Objective = objectives::MoCoV3<Encoder, heads::Mlp<3, 32, 16>, heads::Mlp<2, 32, 16>>;
  constexpr index batch = 40, bucket_bytes = 1 << 12;
  Backend backend(3);
  TrainerOn<Objective, Backend, Communicator, Sharing> trainer(
      backend, communicator, Rule{}, {.batch = batch, .seed = 11, .bucket_bytes = bucket_bytes});
  std::vector<Scalar> images(static_cast<std::size_t>(2 * batch * Encoder::in));
  Random random(3, Purpose::test, 0, 0);
  for (Scalar& value : images) value = Scalar(random.uniform(-1, 1));
  const auto images_of_step = batch_of<Objective>(static_cast<const Scalar*>(images.data()), batch);
  trainer.step(images_of_step, {.learning_rate = 1e-3});
  static_cast<void>(trainer.all_agree(true));  // no rank is in its first step any more
  const long before = allocations;
  for (int step = 0; step < 3; ++step)
    trainer.step(images_of_step, {.learning_rate = 1e-3, .frozen_gradients = step == 2});
  const long after = allocations;
  static_cast<void>(trainer.all_agree(true));
  return after - before;
}

template <class... Policies>
using SmallViT = VisionTransformer<image<32>, patch<16>, 24, 2, 2, 4, vit::policies<Policies...>>;

TEST(Allocation, AStepTakesNothingFromTheHeap) {
  const long before = allocations;
  std::vector<int> one(1);
  ASSERT_GT(allocations, before) << "allocations are not counted";
  comm::Serial alone;
  EXPECT_EQ((allocations_of_three_steps<SmallViT<embed::FrozenPatches>, optim::AdamW>(alone)), 0);
  EXPECT_EQ((allocations_of_three_steps<SmallViT<embed::FrozenPatches>, optim::AdamW, cpu::Backend<bf16>>(alone)), 0);
  EXPECT_EQ(
      (allocations_of_three_steps<SmallViT<embed::ConvStem, position::Learned, pooling::MeanNorm, mlp_norm::BatchNorm>,
                                  optim::Lamb>(alone)),
      0);
}

TEST(Allocation, AStepOfSeveralRanksTakesNothingFromTheHeap) {
  comm::run_threads(2, [](comm::Threads& communicator) {
    EXPECT_EQ((allocations_of_three_steps<SmallViT<embed::FrozenPatches>, optim::AdamW>(communicator)), 0);
    EXPECT_EQ(
        (allocations_of_three_steps<SmallViT<embed::FrozenPatches>, optim::AdamW, cpu::Backend<float, PlainMatmul>,
                                    comm::Threads, comm::ZeroStage1>(communicator)),
        0);
  });
}

}  // namespace
}  // namespace tessera::test

#endif
