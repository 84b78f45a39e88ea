// A CUDA device made of the host's processor, for tests: kernels are compiled by the host's compiler and run thread by
// thread, so that they can be tested, also under sanitizers, on machines that have no device.
//
// It is included in front of everything else (-include), and its folder comes before include/ in the compiler's path,
// so that its tessera/cuda/ptx.hpp stands for the real one. runtime.cpp defines the functions of the CUDA runtime and
// of cuBLASLt that the library calls; nothing of CUDA is linked, its headers alone are used.
//
// What is checked beyond results: threads of a block run one after the other, in an order that changes at every
// barrier, so that a missing barrier shows; barriers and warp-wide operations must be reached by all threads; device
// memory cannot be touched by host code, nor past its end by kernels; it starts as NaN; work of different streams may
// be done in orders that show a missing event (Order). cuBLASLt refuses types, epilogues, extents and alignments that
// its header excludes, and overwrites its workspace. What is not: memory ordering within a warp, alignment in kernels,
// speed.
//
// Ranks are threads, each as good as a process with a device of its own. Work is done by the calls that submit it or
// ask for it, one piece at a time, functions of the host (cudaLaunchHostFunc) by threads.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emulation {

struct Index {
  unsigned x, y, z;
};

// When work is done: at once, or when the host waits, and then a stream's own before that of other streams or after it,
// as far as events allow.
enum class Order { submitted, others_last, others_first };

// What tests change about the machine, and what they count.
struct Machine {
  int devices = 1;
  cudaError_t presence = cudaSuccess;  // what asking for devices gives
  int driver = CUDART_VERSION, capability = 90;
  std::size_t memory = std::size_t{1} << 30;
  cudaError_t sticky = cudaSuccess;       // what waiting for a stream gives
  bool bias_gradients = true;             // whether cuBLASLt sums them
  int algorithms = 3;                     // that cuBLASLt proposes, at most 4; each sums in another order
  unsigned unavailable = 0, failing = 0;  // bits of those whose state is an error, and of those that cannot be started
  Order order = Order::submitted;
  int nccl_version = 22800;      // 2.28.0
  bool silent_network = false;   // NCCL's calls never end
  bool failing_network = false;  // NCCL reports that a peer is gone
  unsigned times = 1;            // seed of the times between events
  long allocations = 0, waits = 0, launches = 0;
  std::set<std::tuple<std::uint64_t, int, int, int, int>> loaded;  // kernels of cuBLASLt
  long loads_in_capture = 0;            // algorithms of cuBLASLt that were used for the first time within a capture
  long zero_operands = 0;               // products of a matrix of zeros
  long low_sums = 0;                    // products that cuBLASLt summed in the result's type
  long communicators = 0, aborted = 0;  // of NCCL: that exist, that were aborted
};
extern Machine machine;

}  // namespace emulation

// Of the running thread.
extern emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Ends the program with the running thread's place and what is wrong.
[[noreturn]] void stop(const char* what);

// Waits for all threads of the block, or of the warp, that have not ended.
void block_barrier();
void warp_barrier();

// Every lane of the warp gives `size` <= 64 bytes and receives all 32 lanes', in room that is valid until its next
// exchange.
const unsigned char* exchange(const void* value, std::size_t size);

// Copies of 16 bytes (zeros from nullptr) that the running thread has under way, in groups.
void start_copy(void* to, const void* from);
void close_copies();
void wait_for_copies(int pending);

void run(dim3 grid, dim3 threads, std::size_t shared_bytes, const std::function<void()>& kernel);
cudaError_t submit(cudaStream_t stream, std::function<void()> work);
bool capturing(cudaStream_t stream);
bool on_device(const void* data, std::size_t bytes);  // all of it within one allocation

// Work that may have to wait: a step is asked until it gives true, under the lock and with access to device memory.
// `make` makes it anew for every replay of a graph.
using Step = std::function<bool()>;
cudaError_t enqueue(cudaStream_t stream, std::function<Step()> make);
std::recursive_mutex& lock();  // of all that the emulated device consists of

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel);

template <class... Parameters, class... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const cudaError_t status = check_launch(*config, reinterpret_cast<const void*>(kernel));
  if (status != cudaSuccess) return status;
  const std::tuple<std::decay_t<Parameters>...> values(arguments...);
  return submit(config->stream, [=, c = *config] {
    run(c.gridDim, c.blockDim, c.dynamicSmemBytes, [&] { std::apply(kernel, values); });
  });
}

inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

template <class Value>
Value shuffle(Value value, int from) {
  const unsigned char* const all = exchange(&value, sizeof(Value));
  std::memcpy(&value, all + from * 64, sizeof(Value));
  return value;
}

}  // namespace emulation

#define cudaLaunchKernelEx ::emulation::launch
#undef __shared__
#define __shared__
#define __launch_bounds__(...)
#define TESSERA_EMULATION 1

inline void __syncthreads() {
  emulation::block_barrier();
}
inline void __syncwarp(unsigned = ~0u) {
  emulation::warp_barrier();
}

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  return emulation::shuffle(value, emulation::lane() ^ mask);
}
template <class Value>
Value __shfl_sync(unsigned, Value value, int lane) {
  return emulation::shuffle(value, lane & 31);
}
template <class Value>
Value __shfl_down_sync(unsigned, Value value, int distance) {
  const int from = emulation::lane() + distance;
  return emulation::shuffle(value, from < 32 ? from : emulation::lane());
}
template <class Value>
Value __shfl_up_sync(unsigned, Value value, int distance) {
  const int from = emulation::lane() - distance;
  return emulation::shuffle(value, from >= 0 ? from : emulation::lane());
}
inline unsigned __ballot_sync(unsigned, int holds) {
  const unsigned char* const all = emulation::exchange(&holds, sizeof(holds));
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    int one;
    std::memcpy(&one, all + lane * 64, sizeof(one));
    ballot |= one != 0 ? 1u << lane : 0u;
  }
  return ballot;
}

template <class Value>
Value atomicAdd(Value* to, Value value) {
  return std::exchange(*to, static_cast<Value>(*to + value));
}
template <class Value>
Value atomicMax(Value* to, Value value) {
  return std::exchange(*to, value > *to ? value : *to);
}
template <class Value>
Value atomicOr(Value* to, Value value) {
  return std::exchange(*to, *to | value);
}
template <class Value>
Value __ldg(const Value* from) {
  return *from;
}
inline void __threadfence() {}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline float __fadd_rn(float a, float b) {
  volatile float sum = a + b;
  return sum;
}
inline float __fsub_rn(float a, float b) {
  volatile float difference = a - b;
  return difference;
}
